// Whether a generation without a cache chose the tokens of the one with a cache.
#pragma once

#include <optional>
#include <vector>

#include "kvtool/engine/api.h"
#include "kvtool/run/cache_bench.h"

namespace kvtool::run {

// Statistics of each token of the same prompt. Up to the first difference both sides were fed the
// same tokens, and what their logits differ by there and before shows the noise that may explain
// it, by the rules of a replay (docs/metrics.md).
[[nodiscard]] std::optional<TokenDifference> first_difference(
    const std::vector<format::StepStats>& with_cache,
    const std::vector<format::StepStats>& without_cache, const engine::Model& model);

}  // namespace kvtool::run
