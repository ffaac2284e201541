// One trial: replays a set of recordings under one intervention and judges the whole of it.
// What asks "does it show, and where" is a series of trials.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvtool/analysis/departure.h"
#include "kvtool/analysis/gate.h"
#include "kvtool/engine/api.h"
#include "kvtool/run/observer.h"
#include "run/batch_replay.h"
#include "run/reference/reference_sets.h"
#include "run/verdicts.h"

namespace kvtool::run {

// What is done to a replay. As it stands: nothing, in the modes that the gate needs.
struct Trial {
  std::optional<cache::CacheSpec> kv_cache = {};  // empty: the one that made the recordings
  std::optional<engine::Fault> fault = {};
  std::vector<format::ReplayMode> modes = {};  // empty: those that the gate needs
  // All steps of an input in one pass; the references are in batches of ReplayShape::kParallel.
  bool parallel = false;
  std::optional<std::uint64_t> parallel_memory_bytes = {};  // empty: the engine's default
  bool refuse_idle = true;                                  // as of BatchReplayOptions
  bool measure_attention = false;                           // likewise
};

// What a batch of a trial took.
struct TrialBatch {
  std::uint64_t rows = 0;
  std::uint64_t padded_length = 0;
  std::uint64_t cache_capacity = 0;
  cache::CacheSpec kv_cache = {};  // that ran
  std::vector<ModeRun> runs = {};  // of each mode
};

// KL of each compared step of an input: the estimate, or where there is none the lower bound. NaN
// where neither is known.
struct InputKl {
  format::ReplayMode mode = format::ReplayMode::kInject;
  std::vector<double> steps = {};
};

// All batches of one trial as the gate sees them.
struct Judgement {
  std::string gate;
  bool measures_noise = true;                      // as of a Verdict, of all of them
  std::vector<std::string> caches;                 // specs of those that ran, each once
  std::vector<analysis::RuleResult> failed_rules;  // worst excess first
  // Where the recordings come from several devices or caches, each figure is that of the first
  // one that has it; rules are judged for each of them.
  analysis::Figures figures;
  std::optional<analysis::Departure> departure;  // of the first mode's steps
  std::string departure_text;                    // for a person; empty without a departure
  // Of the mismatches that are no hard flips: in ulp, and in standard deviations of the noise
  // where that was measured. 0 when there is none.
  double largest_gap_ulps = 0.0;
  double largest_gap_noise = 0.0;
  std::uint64_t inputs = 0;
  std::uint64_t steps = 0;      // over modes
  std::uint64_t most_rows = 0;  // of a batch
  // Devices that the recordings come from, each judged for itself.
  std::uint64_t groups = 0;
  std::vector<TrialBatch> batches;
  std::vector<InputKl> kl;                                         // of each input and mode
  std::map<format::ReplayMode, std::vector<std::int32_t>> tokens;  // of this device, all inputs

  [[nodiscard]] bool passed() const { return failed_rules.empty(); }
};

// Runs trials of one model against recordings, pooled over batch sizes. Each recording is compared
// with the near-tie bound, and judged by the rules, that the gate has for the device and the cache
// it comes from.
class TrialRunner {
 public:
  // `model`, `references` (not empty) and `observer` must outlive the runner. No gate: the default
  // one. `device_label` is this device's.
  TrialRunner(engine::Model& model, std::span<const ReferenceSet> references,
              std::optional<analysis::GateSpec> gate, std::string device_label, Observer& observer);

  // `progress` is told the steps of each batch and mode. Errors as replay_batch() and
  // replay_modes().
  [[nodiscard]] Judgement run(const Trial& trial, const engine::Progress& progress) const;

 private:
  [[nodiscard]] analysis::GateContext context_of(const Trial& trial,
                                                 const ReferenceEntry& entry) const;
  void take_rows(const Trial& trial, std::vector<ReplayedRow> rows, VerdictBuilder& verdicts,
                 Judgement& judgement) const;

  engine::Model& model_;
  std::span<const ReferenceSet> references_;
  std::optional<analysis::GateSpec> gate_;
  std::string device_label_;
  Observer& observer_;
  std::uint64_t block_positions_;
};

}  // namespace kvtool::run
