// The shape of one left-padded batch: all rows end their prompt at the same
// slot, so that step s of every row stands at slot padded_length + s.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <vector>

namespace kvtool::engine {

// Of positions, or slots less their padding: those that there are.
[[nodiscard]] constexpr std::uint64_t no_padding(std::int64_t positions) {
  return positions < 0 ? 0 : static_cast<std::uint64_t>(positions);
}

class BatchShape {
 public:
  // prompts: one span of token ids per row, none empty, none longer than
  // padded_length. Error kMisuse otherwise.
  BatchShape(std::vector<std::span<const std::int32_t>> prompts, std::int64_t padded_length,
             std::int64_t capacity);

  [[nodiscard]] std::int64_t rows() const { return static_cast<std::int64_t>(prompts_.size()); }
  [[nodiscard]] std::int64_t padded_length() const { return padded_length_; }
  [[nodiscard]] std::int64_t capacity() const { return capacity_; }
  [[nodiscard]] std::int64_t prompt_length(std::int64_t row) const;
  // Slots left of the row's first prompt token.
  [[nodiscard]] std::int64_t padding(std::int64_t row) const;
  [[nodiscard]] bool is_padded() const;

  // Prefill inputs on `device`, i64 [rows, padded_length]. Padding holds token 0
  // at position 0; no query ever sees it.
  [[nodiscard]] at::Tensor input_ids(at::Device device) const;
  [[nodiscard]] at::Tensor position_ids(at::Device device) const;
  // Positions of step 0, i64 [rows, 1].
  [[nodiscard]] at::Tensor first_step_positions(at::Device device) const;
  // [rows, 1, 1, capacity]: 0, or -inf for padding slots.
  [[nodiscard]] at::Tensor padding_bias(at::ScalarType dtype, at::Device device) const;

 private:
  std::vector<std::span<const std::int32_t>> prompts_;
  std::int64_t padded_length_;
  std::int64_t capacity_;
};

}  // namespace kvtool::engine
