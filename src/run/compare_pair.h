// Compares two recordings: the second one is fed to the comparator as if a
// device computed it now.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kvtool/analysis/gate.h"
#include "kvtool/format/replay_mode.h"
#include "kvtool/run/result.h"
#include "model_check.h"
#include "run/reference/pair_recordings.h"

namespace kvtool::run {

// A pair that was found comparable, and what is known before K/V is read.
struct DiffPlan {
  RecordingPair pair;
  ModelDescription model;  // of the live side
  analysis::GateContext context;
  format::ReplayMode mode = format::ReplayMode::kFree;
  ModelDifferences differences;
  std::vector<analysis::ProvenanceDifference> provenance;
  analysis::NumericsAgreement numerics;
  std::vector<std::string> warnings;  // what is not compared, and why
};

// Error kIncompatible naming both files: another vocabulary, shape or prompt
// always; other weights, architecture, config, K/V or logits dtypes unless allowed.
[[nodiscard]] DiffPlan plan_diff(RecordingPair pair, bool allow_different_weights);

struct DiffOptions {
  analysis::FlipBounds flip_bounds = {};
  std::uint64_t block_positions = 64;  // the same for all pairs of a run
  StopToken stop = {};                 // ends with Interrupted
};

struct DiffResult {
  InputResult input;
  std::uint64_t compared_bytes = 0;  // K/V of both sides
};

// Reads both files from front to back. May run beside other comparisons.
[[nodiscard]] DiffResult compare_pair(const DiffPlan& plan, const DiffOptions& options);

// Compares `threads` pairs at a time. `due` is called on the calling thread, in
// the order of the plans; at most one result per thread waits for its turn.
// Throws the first error in that order, or Interrupted once `stop` is requested, when every
// thread has ended.
void compare_in_order(std::span<const DiffPlan> plans, unsigned threads, const StopToken& stop,
                      const std::function<DiffOptions(const DiffPlan&)>& options_for,
                      const std::function<void(const DiffPlan&, const DiffResult&)>& due);

}  // namespace kvtool::run
