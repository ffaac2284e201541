// Distances become buckets in loops that the compiler vectorizes.
#include "kvtool/analysis/ulp_histogram.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "kvtool/base/vectorized.h"

namespace kvtool::analysis {
namespace {

// Their buckets stay in the level-1 cache.
constexpr std::size_t kAtATime = 1024;

constexpr std::uint32_t kExactDistances = 16;

// Below kExactDistances the distance itself, above it exponent and two leading
// fraction bits.
[[gnu::always_inline]] inline std::uint32_t bucket_of(std::uint32_t distance) {
  // Large distances are shortened first, so that the conversion is exact.
  const bool large = distance >= (1U << 24);
  const auto shortened = static_cast<std::int32_t>(select(large, distance >> 8, distance));
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(shortened));
  constexpr std::uint32_t kFirst = (127U + 4U) << 2;  // of the value 16
  const std::uint32_t bucket = (bits >> 21) - kFirst + kExactDistances + select(large, 32U, 0U);
  return select(distance < kExactDistances, distance, bucket);
}

double largest_of_bucket(std::size_t bucket) {
  if (bucket < kExactDistances) return static_cast<double>(bucket);
  const std::size_t above = bucket - kExactDistances;
  const double quarter = std::ldexp(1.0, static_cast<int>(above / 4) + 2);
  return quarter * static_cast<double>(5 + above % 4) - 1.0;
}

// Returns the highest bucket.
KVTOOL_VECTORIZED std::uint32_t to_buckets(const std::uint32_t* distances, std::uint8_t* buckets,
                                           std::size_t size) {
  std::uint32_t highest = 0;
  for (std::size_t i = 0; i < size; ++i) {
    const std::uint32_t bucket = bucket_of(distances[i]);
    highest = std::max(highest, bucket);
    buckets[i] = static_cast<std::uint8_t>(bucket);
  }
  return highest;
}

}  // namespace

void UlpHistogram::add(std::uint32_t distance, std::uint64_t count) {
  if (distance == 0) {
    zeros_ += count;
    return;
  }
  const std::size_t bucket = bucket_of(distance);
  if (bucket >= counts_.size()) counts_.resize(bucket + 1);
  counts_[bucket] += count;
}

void UlpHistogram::add(std::span<const std::uint32_t> distances) {
  std::array<std::uint8_t, kAtATime> buckets;
  while (!distances.empty()) {
    const std::size_t size = std::min(distances.size(), buckets.size());
    const std::size_t highest = to_buckets(distances.data(), buckets.data(), size);
    if (highest >= counts_.size()) counts_.resize(highest + 1);
    std::uint64_t* counts = counts_.data();
    for (std::size_t i = 0; i < size; ++i) ++counts[buckets[i]];
    distances = distances.subspan(size);
  }
}

void UlpHistogram::add(const UlpHistogram& other) {
  zeros_ += other.zeros_;
  if (other.counts_.size() > counts_.size()) counts_.resize(other.counts_.size());
  for (std::size_t i = 0; i < other.counts_.size(); ++i) counts_[i] += other.counts_[i];
}

std::uint64_t UlpHistogram::total() const {
  std::uint64_t total = zeros_;
  for (const std::uint64_t count : counts_) total += count;
  return total;
}

double UlpHistogram::quantile(double q) const {
  const double rank = q * static_cast<double>(total()) - 1e-9;
  auto reached = static_cast<double>(zeros_);
  for (std::size_t bucket = 0; bucket < counts_.size(); ++bucket) {
    reached += static_cast<double>(counts_[bucket]);
    if (reached >= rank && reached > 0.0) return largest_of_bucket(bucket);
  }
  return 0.0;
}

void UlpHistogram::clear() {
  std::fill(counts_.begin(), counts_.end(), 0);
  zeros_ = 0;
}

}  // namespace kvtool::analysis
