// Proves that a gate can fail: one trial without a fault, one with each fault, and as many as
// it takes to find the smallest strength that is still caught.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fault_plans.h"
#include "kvtool/analysis/gate.h"
#include "kvtool/run/result.h"
#include "run/session.h"
#include "trial.h"

namespace kvtool::run {

struct SelftestOptions {
  std::vector<format::ReplayMode> modes;  // empty: those that the gate needs
  analysis::GateSpec gate;
  std::optional<cache::CacheSpec> kv_cache = {};  // as of a Trial
  ReplayShape shape = ReplayShape::kRecorded;     // that of the reference's batches
  std::optional<std::uint64_t> parallel_memory_bytes = {};
  bool search = true;  // for the smallest strength that is still caught
};

// The built-in gate for this model's K/V.
[[nodiscard]] std::string_view gate_for_kv(DType dtype);

// `reference` in the result is left to the caller. Errors as replay_batch();
// kUsage when the recordings hold no steps.
[[nodiscard]] SelftestResult try_faults(Session& session, engine::Model& model,
                                        const ReferenceSet& reference,
                                        const SelftestOptions& options);

}  // namespace kvtool::run
