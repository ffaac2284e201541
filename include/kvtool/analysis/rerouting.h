// Rows of K/V that stand out because a router chose other experts for a token.
// docs/metrics.md, "Mixtures of experts".
#pragma once

#include <cstddef>
#include <vector>

#include "kvtool/analysis/kv_error.h"

namespace kvtool::analysis {

// Whether the rows of this layer are made from what a layer with experts left: those of the first
// layer never are. `routed_layers` as GateContext's.
[[nodiscard]] bool is_behind_experts(std::size_t layer, const std::vector<bool>& routed_layers);

// Per position of the profile, the first layer whose rows a router explains; num_layers() where
// it explains none. A layer with experts that takes other ones changes everything behind it: the
// rows of all later layers, each of them far above its layer's median, and by about as much as the
// first. What begins in layer 0, behind a layer without experts, or ends before the last layer is
// not explained.
[[nodiscard]] std::vector<std::size_t> rerouted_from(const KvProfile& profile,
                                                     const std::vector<bool>& routed_layers);

}  // namespace kvtool::analysis
