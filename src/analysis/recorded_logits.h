// What statistics of a step hold, for comparisons of two of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "kvtool/format/recording.h"

namespace kvtool::analysis {

inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// The prediction or what is known of the row is NaN or Inf.
[[nodiscard]] inline bool holds_nonfinite(const format::StepStats& stats) {
  return stats.token < 0 || !std::isfinite(stats.logsumexp) ||
         !std::all_of(
             stats.top_logits.begin(), stats.top_logits.end(),
             [](float logit) { return std::isfinite(logit); });
}

// Entries of the top-k.
[[nodiscard]] inline std::size_t num_recorded(const format::StepStats& stats) {
  return std::min(stats.top_ids.size(), stats.top_logits.size());
}

}  // namespace kvtool::analysis
