// Proves that a gate can fail: replays a reference with one fault after the
// other and judges each replay as any other one would be judged.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "batch_replay.h"
#include "fault_plans.h"
#include "kvtool/analysis/gate.h"
#include "plan_batches.h"
#include "kvtool/run/result.h"
#include "session.h"

namespace kvtool::run {

// The recordings that the faulty replays are compared with.
struct SelftestReference {
  std::vector<ReferenceEntry> entries;  // of one batch size
  std::vector<PlannedBatch> batches;
};

struct SelftestOptions {
  std::vector<format::ReplayMode> modes;  // empty: those that the gate needs
  analysis::GateSpec gate;
  bool search = true;  // for the smallest strength that is still caught
};

// The built-in gate for this model's K/V.
[[nodiscard]] std::string_view gate_for_kv(DType dtype);

// `reference` in the result is left to the caller. Errors as replay_batch();
// kUsage when the recordings hold no steps.
[[nodiscard]] SelftestResult try_faults(Session& session, engine::Model& model,
                                        const SelftestReference& reference,
                                        const SelftestOptions& options);

}  // namespace kvtool::run
