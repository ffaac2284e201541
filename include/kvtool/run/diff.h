// Compares recordings with recordings, without a model.
#pragma once

#include <filesystem>
#include <optional>

#include "kvtool/analysis/gate.h"
#include "kvtool/run/observer.h"
#include "kvtool/run/services.h"

namespace kvtool::run {

struct DiffRequest {
  // Two recordings, or two folders at any height above some.
  std::filesystem::path reference;
  std::filesystem::path live;
  std::optional<analysis::GateSpec> gate;  // nothing: the default gate
  bool allow_different_weights = false;
  unsigned threads = 0;  // recordings at the same time; 0: one per core
};

// Whatever cannot be compared ends the run before the first result: Error kUsage unless
// something pairs, kIncompatible for recordings of another model, kCorrupt for damaged ones.
// Recordings of the reference without a partner are in Summary::missing. Interrupted after a
// stop.
Summary run_diff(const DiffRequest& request, const Services& services, Observer& observer);

}  // namespace kvtool::run
