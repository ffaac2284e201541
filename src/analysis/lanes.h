// Vectors for sums of doubles in a fixed order, the same for every compiler and
// instruction set.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstring>

#include "kvtool/base/vectorized.h"

namespace kvtool::analysis {

// Independent sums: addition of doubles may not be reordered by the compiler,
// and a fixed order keeps the figures the same for every compiler.
inline constexpr std::size_t kLanes = 8;

// The vector extension of GCC and Clang, several vectors side by side: wider ones
// than the instruction set has are taken apart element by element. Functions take
// them by reference, because by value they have no common calling convention.
inline constexpr std::size_t kWidth = KVTOOL_VECTOR_BYTES / sizeof(double);
inline constexpr std::size_t kVectors = kLanes / kWidth;
using Vector [[gnu::vector_size(kWidth * sizeof(double))]] = double;
using FloatVector [[gnu::vector_size(kWidth * sizeof(float))]] = float;
using Lanes = std::array<Vector, kVectors>;

inline double sum(const Lanes& vectors) {
  const auto lanes = std::bit_cast<std::array<double, kLanes>>(vectors);
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

inline double maximum(const Lanes& vectors) {
  const auto lanes = std::bit_cast<std::array<double, kLanes>>(vectors);
  return *std::max_element(lanes.begin(), lanes.end());
}

[[gnu::always_inline]] inline void load(const float* values, Vector& target) {
  FloatVector narrow;
  std::memcpy(&narrow, values, sizeof narrow);
  target = __builtin_convertvector(narrow, Vector);
}

}  // namespace kvtool::analysis
