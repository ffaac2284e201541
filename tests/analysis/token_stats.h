// Statistics of a token, as comparisons take them.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "kvtool/format/recording.h"

namespace kvtool::analysis {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The best ids with their logits, the choice first.
inline format::StepStats stats(std::vector<std::int32_t> ids, std::vector<float> logits) {
  format::StepStats result;
  result.token = ids.empty() ? -1 : ids.front();
  result.logsumexp = 20.0;
  result.logits_digest = 77;
  result.top_ids = std::move(ids);
  result.top_logits = std::move(logits);
  return result;
}

// With given probabilities: the logits are their logarithms.
inline format::StepStats distribution(std::vector<std::int32_t> ids,
                                      const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  format::StepStats result = stats(std::move(ids), std::move(logits));
  result.logsumexp = 0.0;
  return result;
}

}  // namespace kvtool::analysis
