// One trial: replays a set of recordings under one intervention and judges the whole of it.
// What asks "does it show, and where" is a series of trials.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/analysis/departure.h"
#include "kvtool/analysis/gate.h"
#include "kvtool/engine/api.h"
#include "kvtool/run/observer.h"
#include "reference_sets.h"

namespace kvtool::run {

// What is done to a replay. As it stands: nothing, in the modes that the gate needs.
struct Trial {
  std::optional<engine::Fault> fault;
  std::vector<format::ReplayMode> modes;  // empty: those that the gate needs
};

// All batches of one trial as the gate sees them.
struct Judgement {
  std::string gate;
  std::vector<analysis::RuleResult> failed_rules;  // worst excess first
  // Where the recordings come from several devices, each figure is that of the first one
  // that has it; rules are judged for each device.
  analysis::Figures figures;
  std::optional<analysis::Departure> departure;  // of the first mode's steps
  std::string departure_text;                    // for a person; empty without a departure
  std::uint64_t inputs = 0;
  std::uint64_t steps = 0;  // over modes

  [[nodiscard]] bool passed() const { return failed_rules.empty(); }
};

// Runs trials of one model against one set of recordings. Each recording is compared with the
// near-tie bound, and judged by the rules, that the gate has for the device it comes from.
class TrialRunner {
 public:
  // `model`, `reference` and `observer` must outlive the runner. `device_label` is this
  // device's.
  TrialRunner(engine::Model& model, const ReferenceSet& reference, analysis::GateSpec gate,
              std::string device_label, Observer& observer);

  // `progress` is told the steps of each batch and mode. Errors as replay_batch().
  [[nodiscard]] Judgement run(const Trial& trial, const engine::Progress& progress) const;

 private:
  [[nodiscard]] analysis::GateContext context_of(const ReferenceEntry& entry) const;

  engine::Model& model_;
  const ReferenceSet& reference_;
  analysis::GateSpec gate_;
  std::string device_label_;
  Observer& observer_;
  std::uint64_t block_positions_;
};

}  // namespace kvtool::run
