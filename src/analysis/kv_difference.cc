// One pass over both blocks, chunk by chunk: decode to float32 on the stack,
// set aside what is not finite, then sum. Chunks that are equal byte for byte
// (the usual case on the recording device) need the reference alone.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "kvtool/analysis/comparison.h"
#include "kvtool/base/error.h"

namespace kvtool::analysis {
namespace {

// Both decoded chunks and both sources stay in the level-1 cache.
constexpr std::size_t kChunk = 1024;
// Independent sums: addition of doubles may not be reordered by the compiler,
// and a fixed order keeps the figures the same for every block size and compiler.
constexpr std::size_t kLanes = 8;
static_assert(kChunk % kLanes == 0);

using Chunk = std::array<float, kChunk>;
using Lanes = std::array<double, kLanes>;

double sum(const Lanes& lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}
double maximum(const Lanes& lanes) { return *std::max_element(lanes.begin(), lanes.end()); }

struct Sums {
  Lanes error{};
  Lanes reference{};
  Lanes max_abs{};
  Lanes max_reference{};
};

template <typename Bits>
std::uint64_t count_differing(std::span<const std::byte> live,
                              std::span<const std::byte> reference) {
  std::uint32_t differing = 0;
  for (std::size_t offset = 0; offset < live.size(); offset += sizeof(Bits)) {
    Bits a;
    Bits b;
    std::memcpy(&a, live.data() + offset, sizeof a);
    std::memcpy(&b, reference.data() + offset, sizeof b);
    differing += a != b ? 1U : 0U;
  }
  return differing;
}

std::uint64_t count_differing(std::size_t element_bytes, std::span<const std::byte> live,
                              std::span<const std::byte> reference) {
  switch (element_bytes) {
    case 1: return count_differing<std::uint8_t>(live, reference);
    case 2: return count_differing<std::uint16_t>(live, reference);
    default: return count_differing<std::uint32_t>(live, reference);
  }
}

std::uint32_t is_nonfinite(float value) {
  return (std::bit_cast<std::uint32_t>(value) & 0x7fffffffU) >= 0x7f800000U ? 1U : 0U;
}

// Pairs with a NaN or Inf are counted and replaced by zeros, which add nothing
// to any figure.
std::uint64_t set_aside_nonfinite(Chunk& live, Chunk& reference, std::size_t size) {
  std::uint32_t count = 0;
  for (std::size_t i = 0; i < size; ++i) {
    count += is_nonfinite(live[i]) | is_nonfinite(reference[i]);
  }
  if (count == 0) return 0;
  for (std::size_t i = 0; i < size; ++i) {
    if ((is_nonfinite(live[i]) | is_nonfinite(reference[i])) != 0) live[i] = reference[i] = 0.0F;
  }
  return count;
}

void accumulate_reference(const Chunk& reference, std::size_t padded_size, Sums& sums) {
  for (std::size_t i = 0; i < padded_size; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const double value = reference[i + lane];
      sums.reference[lane] += value * value;
      sums.max_reference[lane] = std::max(sums.max_reference[lane], std::abs(value));
    }
  }
}

void accumulate_error(const Chunk& live, const Chunk& reference, std::size_t padded_size,
                      Sums& sums) {
  for (std::size_t i = 0; i < padded_size; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const double error =
          static_cast<double>(live[i + lane]) - static_cast<double>(reference[i + lane]);
      sums.error[lane] += error * error;
      sums.max_abs[lane] = std::max(sums.max_abs[lane], std::abs(error));
    }
  }
}

double ratio(double numerator, double denominator) {
  if (denominator > 0.0) return numerator / denominator;
  return numerator > 0.0 ? std::numeric_limits<double>::infinity() : 0.0;
}

}  // namespace

double KvDifference::relative_l2() const {
  return std::sqrt(ratio(sum_squared_error, sum_squared_reference));
}

double KvDifference::relative_max() const { return ratio(max_abs, max_reference); }

void KvDifference::add(const KvDifference& other) {
  elements += other.elements;
  differing += other.differing;
  nonfinite += other.nonfinite;
  max_abs = std::max(max_abs, other.max_abs);
  max_reference = std::max(max_reference, other.max_reference);
  sum_squared_error += other.sum_squared_error;
  sum_squared_reference += other.sum_squared_reference;
}

KvDifference compare_blocks(DType dtype, std::span<const std::byte> live,
                            std::span<const std::byte> reference) {
  const std::size_t element_bytes = element_size(dtype);
  if (live.size() != reference.size() || live.size() % element_bytes != 0) {
    throw_incompatible("K/V blocks of " + std::to_string(live.size()) + " and " +
                       std::to_string(reference.size()) + " bytes cannot be compared as " +
                       std::string(dtype_name(dtype)));
  }

  KvDifference difference;
  difference.elements = live.size() / element_bytes;
  Sums sums;
  alignas(64) Chunk live_values;
  alignas(64) Chunk reference_values;
  for (std::size_t done = 0; done < difference.elements; done += kChunk) {
    const std::size_t size = std::min<std::size_t>(kChunk, difference.elements - done);
    const std::size_t padded_size = (size + kLanes - 1) / kLanes * kLanes;
    const auto live_chunk = live.subspan(done * element_bytes, size * element_bytes);
    const auto reference_chunk = reference.subspan(done * element_bytes, size * element_bytes);

    decode_to_float(dtype, reference_chunk, std::span(reference_values).first(size));
    std::fill(reference_values.begin() + static_cast<std::ptrdiff_t>(size),
              reference_values.begin() + static_cast<std::ptrdiff_t>(padded_size), 0.0F);
    if (std::memcmp(live_chunk.data(), reference_chunk.data(), live_chunk.size()) == 0) {
      difference.nonfinite += set_aside_nonfinite(reference_values, reference_values, size);
      accumulate_reference(reference_values, padded_size, sums);
      continue;
    }
    decode_to_float(dtype, live_chunk, std::span(live_values).first(size));
    std::fill(live_values.begin() + static_cast<std::ptrdiff_t>(size),
              live_values.begin() + static_cast<std::ptrdiff_t>(padded_size), 0.0F);
    difference.differing += count_differing(element_bytes, live_chunk, reference_chunk);
    difference.nonfinite += set_aside_nonfinite(live_values, reference_values, size);
    accumulate_reference(reference_values, padded_size, sums);
    accumulate_error(live_values, reference_values, padded_size, sums);
  }
  difference.max_abs = maximum(sums.max_abs);
  difference.max_reference = maximum(sums.max_reference);
  difference.sum_squared_error = sum(sums.error);
  difference.sum_squared_reference = sum(sums.reference);
  return difference;
}

}  // namespace kvtool::analysis
