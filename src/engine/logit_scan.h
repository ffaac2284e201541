// The passes over one row of logits on the CPU. A vocabulary of 50,000 fits the
// level-2 cache, so that each pass costs microseconds; the same statistics out
// of tensor operations cost a hundred times as much.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvtool::engine {

// The logit, mapped to integers of the same order, above 2^32 - 1 - id: keys
// sort by logit descending, then id ascending. Zeros of both signs are equal; NaN of
// both signs ranks before every number.
[[nodiscard]] std::int64_t ordered_key(float logit, std::size_t id);
[[nodiscard]] float logit_of_key(std::int64_t key);
[[nodiscard]] std::int32_t id_of_key(std::int64_t key);
// What a key holds below its logit for id 0.
inline constexpr std::int64_t kKeyIdMask = 0xffffffff;

// Sum of bits[i] * weights[i] modulo 2^64.
[[nodiscard]] std::uint64_t weighted_sum(std::span<const std::uint16_t> bits,
                                         std::span<const std::int64_t> weights);
[[nodiscard]] std::uint64_t weighted_sum(std::span<const std::uint32_t> bits,
                                         std::span<const std::int64_t> weights);

struct LargestLogit {
  float value;
  bool is_ordered;  // the row holds no NaN
};
// `row` is not empty.
[[nodiscard]] LargestLogit largest_logit(std::span<const float> row);

// Lowest id among the elements that equal `value`; row.size() if there is none.
[[nodiscard]] std::size_t first_equal(std::span<const float> row, float value);

// In eight interleaved sums, so that the result does not depend on the machine.
[[nodiscard]] double sum_in_double(std::span<const float> row);

// The `count` largest keys of a row without NaN, descending, to `keys`.
// 1 <= count <= row.size().
void largest_keys(std::span<const float> row, std::size_t count, std::vector<std::int64_t>& keys);

}  // namespace kvtool::engine
