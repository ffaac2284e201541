#include "engine/logit_scan.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "kvtool/base/vectorized.h"

namespace kvtool::engine {
namespace {

constexpr std::size_t kLanes = 8;
// Elements whose comparison with the threshold is one decision.
constexpr std::size_t kChunk = 64;
// Candidates beyond the wanted ones that are gathered before the threshold moves.
constexpr std::size_t kSurplus = 256;

// An involution between float bits and int32 that keeps the order of floats.
constexpr std::int32_t flip_negative(std::int32_t bits) {
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

template <typename Bits>
[[gnu::always_inline]] inline std::uint64_t sum_of_products(const Bits* bits,
                                                            const std::int64_t* weights,
                                                            std::size_t count) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    sum += std::uint64_t{bits[i]} * static_cast<std::uint64_t>(weights[i]);
  }
  return sum;
}

KVTOOL_VECTORIZED std::uint64_t sum_of_products16(const std::uint16_t* bits,
                                                  const std::int64_t* weights, std::size_t count) {
  return sum_of_products(bits, weights, count);
}

KVTOOL_VECTORIZED std::uint64_t sum_of_products32(const std::uint32_t* bits,
                                                  const std::int64_t* weights, std::size_t count) {
  return sum_of_products(bits, weights, count);
}

KVTOOL_VECTORIZED float maximum(const float* row, std::size_t count, std::uint32_t& unordered) {
  std::array<float, 32> best;
  std::array<std::uint32_t, 32> nan{};
  best.fill(row[0]);
  std::size_t i = 0;
  for (; i + best.size() <= count; i += best.size()) {
    for (std::size_t lane = 0; lane < best.size(); ++lane) {
      const float x = row[i + lane];
      best[lane] = x > best[lane] ? x : best[lane];
      nan[lane] |= static_cast<std::uint32_t>(x != x);
    }
  }
  float result = row[0];
  for (std::size_t lane = 0; lane < best.size(); ++lane) {
    result = std::max(result, best[lane]);
    unordered |= nan[lane];
  }
  for (; i < count; ++i) {
    result = std::max(result, row[i]);
    unordered |= static_cast<std::uint32_t>(row[i] != row[i]);
  }
  return result;
}

KVTOOL_VECTORIZED bool any_above(const float* chunk, float threshold) {
  std::uint32_t above = 0;
  for (std::size_t i = 0; i < kChunk; ++i) {
    above |= static_cast<std::uint32_t>(chunk[i] > threshold);
  }
  return above != 0;
}

KVTOOL_VECTORIZED void add_lanes(const float* row, std::size_t count, double* lanes) {
  for (std::size_t i = 0; i + kLanes <= count; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += static_cast<double>(row[i + lane]);
    }
  }
}

}  // namespace

float logit_of_key(std::int64_t key) {
  return std::bit_cast<float>(flip_negative(static_cast<std::int32_t>(key >> 32)));
}

std::int32_t id_of_key(std::int64_t key) {
  return static_cast<std::int32_t>(kKeyIdMask - (key & kKeyIdMask));
}

std::int64_t ordered_key(float logit, std::size_t id) {
  // A NaN whose sign is set, which x86 makes, would rank behind every number. Adding +0 turns -0
  // into +0, which is equal and must rank equal.
  const float ranked = std::isnan(logit) ? std::numeric_limits<float>::quiet_NaN() : logit + 0.0F;
  const std::int32_t ordered = flip_negative(std::bit_cast<std::int32_t>(ranked));
  return (std::int64_t{ordered} << 32) | (kKeyIdMask - static_cast<std::int64_t>(id));
}

std::uint64_t weighted_sum(std::span<const std::uint16_t> bits,
                           std::span<const std::int64_t> weights) {
  return sum_of_products16(bits.data(), weights.data(), bits.size());
}

std::uint64_t weighted_sum(std::span<const std::uint32_t> bits,
                           std::span<const std::int64_t> weights) {
  return sum_of_products32(bits.data(), weights.data(), bits.size());
}

LargestLogit largest_logit(std::span<const float> row) {
  std::uint32_t unordered = 0;
  const float value = maximum(row.data(), row.size(), unordered);
  return {value, unordered == 0};
}

std::size_t first_equal(std::span<const float> row, float value) {
  return static_cast<std::size_t>(std::find(row.begin(), row.end(), value) - row.begin());
}

double sum_in_double(std::span<const float> row) {
  std::array<double, kLanes> lanes{};
  add_lanes(row.data(), row.size(), lanes.data());
  for (std::size_t i = row.size() / kLanes * kLanes; i < row.size(); ++i) {
    lanes[i % kLanes] += static_cast<double>(row[i]);
  }
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

void largest_keys(std::span<const float> row, std::size_t count, std::vector<std::int64_t>& keys) {
  const auto keep_largest = [&] {
    std::nth_element(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(count) - 1,
                     keys.end(), std::greater<>());
    keys.resize(count);
    return logit_of_key(keys.back());
  };
  keys.clear();
  for (std::size_t id = 0; id < count; ++id) keys.push_back(ordered_key(row[id], id));
  float threshold = keep_largest();
  // What only equals the threshold ranks behind it: its id is higher.
  const auto consider = [&](std::size_t begin, std::size_t end) {
    for (std::size_t id = begin; id < end; ++id) {
      if (row[id] > threshold) keys.push_back(ordered_key(row[id], id));
    }
    if (keys.size() >= count + kSurplus) threshold = keep_largest();
  };
  std::size_t id = count;
  for (; id + kChunk <= row.size(); id += kChunk) {
    if (any_above(row.data() + id, threshold)) consider(id, id + kChunk);
  }
  consider(id, row.size());
  keep_largest();
  std::sort(keys.begin(), keys.end(), std::greater<>());
}

}  // namespace kvtool::engine
