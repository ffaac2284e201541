// Where an error begins: the first layer and position that leaves the profile
// of the others.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kvtool/analysis/kv_error.h"

namespace kvtool::analysis {

struct Departure {
  KvKind kind = KvKind::kKey;
  std::size_t layer = 0;
  bool whole_layer = false;    // the layer as a whole stands out, not one position
  std::uint64_t position = 0;  // from the profile's first position
  // Which figure stands out: "relative_l2", "scale_error" or "nonfinite".
  std::string figure;
  double measured = 0.0;
  double typical = 0.0;  // what the others show (median); 0 when they are bitwise equal
};

// In the order of computation: the lowest position, then the lowest layer, K
// before V; a layer that stands out as a whole counts as its first position.
// Nothing when no error leaves the profile or nothing was measured.
// The rule (thresholds, robust median and MAD in octaves) is in docs/metrics.md.
[[nodiscard]] std::optional<Departure> find_departure(const KvProfile& profile);

}  // namespace kvtool::analysis
