// The faults of a selftest: what each does, and which of them a model can have.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/engine/api.h"

namespace kvtool::run {

struct FaultPlan {
  std::string name;         // of FaultInfo
  std::string description;  // "V x 1.01 in layer 15"
  std::string skipped;      // not empty: why this model cannot have it
  std::string unit;         // what a strength means; empty: the fault has none
  engine::Fault fault;
  // Where to put it instead when it changes nothing here: layers without
  // rotary positions have no rotated keys.
  std::optional<std::uint32_t> other_layer;
};

struct FaultSite {
  std::uint64_t step = 0;  // of the faults that act once
  std::uint64_t longest_prompt = 0;
  std::uint64_t most_steps = 0;
};

// All faults, in the middle layer (of those that can have it), with the
// strength that a gate must catch.
[[nodiscard]] std::vector<FaultPlan> plan_faults(const engine::ModelInfo& model,
                                                 const FaultSite& site);

// `plan` in another layer.
[[nodiscard]] FaultPlan moved_to(const FaultPlan& plan, std::uint32_t layer);

}  // namespace kvtool::run
