// The faults that a selftest puts into a replay: those that there are, which the plans, help
// texts, documentation and tests iterate. What each does to a row is the engine's
// (engine::FaultKind).
#pragma once

#include <array>
#include <string_view>

#include "kvtool/engine/api.h"

namespace kvtool::run {

struct FaultInfo {
  engine::FaultKind kind;
  std::string_view name;
  std::string_view summary;
  // Of one fault: a format of `factor` (1 + s of the strength s), `layer` and `step`.
  std::string_view description;
  std::string_view unit;  // what a strength means; empty: the fault has none
};
inline constexpr std::array kFaults = {
    FaultInfo{engine::FaultKind::kScaledValues, "scaled-values", "V x 1.01",
              "V x {factor:.4g} in layer {layer}", "V x (1 + s)"},
    FaultInfo{engine::FaultKind::kRotatedKeys, "rotated-keys", "keys rotated to the next position",
              "keys rotated one position on in layer {layer}", "K + s x (rotated K - K)"},
    FaultInfo{engine::FaultKind::kSwappedHeads, "swapped-heads", "KV heads 0 and 1 swapped",
              "KV heads 0 and 1 swapped in layer {layer}", "own + s x (other head - own)"},
    FaultInfo{engine::FaultKind::kStaleRow, "stale-row", "one row not written",
              "K and V of the position before in layer {layer}, step {step} only",
              "row + s x (row before - row)"},
    FaultInfo{engine::FaultKind::kUnscaledInt8Keys, "unscaled-int8-keys",
              "K quantized to 8 bits, its scale lost",
              "K as 8-bit integers without their scale in layer {layer}", "K + s x (integers - K)"},
    FaultInfo{engine::FaultKind::kNonfinite, "nonfinite", "one NaN",
              "one NaN in V of layer {layer}, step {step} only", ""},
};

}  // namespace kvtool::run
