// Rows of float32 that two kinds of kernels have computed: equal up to rounding.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "engine/memory_row.h"

namespace kvtool::engine {

// Relative to `b` where that is above 1. What is NaN or the same Inf on both sides is equal.
inline double difference_of(double a, double b) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return 0.0;
  const double difference = std::abs(a - b);
  if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
  return difference / std::max(1.0, std::abs(b));
}

inline double largest_difference(const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
  EXPECT_EQ(a.size(), b.size());
  const auto* x = reinterpret_cast<const float*>(a.data());
  const auto* y = reinterpret_cast<const float*>(b.data());
  double largest = 0.0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()) / sizeof(float); ++i) {
    largest = std::max(largest, difference_of(x[i], y[i]));
  }
  return largest;
}

inline void expect_close(const format::StepStats& a, const format::StepStats& b) {
  EXPECT_EQ(a.input_token, b.input_token);
  EXPECT_EQ(a.token, b.token);
  EXPECT_EQ(a.top_ids, b.top_ids);
  EXPECT_LT(difference_of(a.logsumexp, b.logsumexp), 1e-5) << a.logsumexp << " " << b.logsumexp;
}

inline void expect_close(const MemoryRow& a, const MemoryRow& b) {
  expect_close(a.first, b.first);
  ASSERT_EQ(a.steps.size(), b.steps.size());
  ASSERT_EQ(a.deltas.size(), b.deltas.size());
  for (std::size_t step = 0; step < a.steps.size(); ++step) {
    expect_close(a.steps[step], b.steps[step]);
    EXPECT_LT(largest_difference(a.deltas[step], b.deltas[step]), 1e-5) << step;
  }
  ASSERT_EQ(a.prompt_keys.size(), b.prompt_keys.size());
  for (std::size_t layer = 0; layer < a.prompt_keys.size(); ++layer) {
    EXPECT_LT(largest_difference(a.prompt_keys[layer], b.prompt_keys[layer]), 1e-5);
    EXPECT_LT(largest_difference(a.prompt_values[layer], b.prompt_values[layer]), 1e-5);
  }
  ASSERT_EQ(a.final_values.size(), b.final_values.size());
  for (std::size_t layer = 0; layer < a.final_values.size(); ++layer) {
    EXPECT_LT(largest_difference(a.final_keys[layer], b.final_keys[layer]), 1e-5);
    EXPECT_LT(largest_difference(a.final_values[layer], b.final_values[layer]), 1e-5);
  }
}

}  // namespace kvtool::engine
