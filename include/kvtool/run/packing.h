// Packs or unpacks many recordings at a time.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/base/error.h"
#include "kvtool/base/stop.h"
#include "kvtool/run/observer.h"

namespace kvtool::run {

struct PackingRequest {
  bool unpack = false;
  std::vector<std::filesystem::path> recordings;
  std::string output;    // empty: each in place; else the only recording's new file
  unsigned threads = 0;  // 0: one per core
};

struct PackingOutcome {
  PackingResult result;
  std::optional<ErrorCode> failure;  // of the first recording that failed
};

// A recording that fails is reported and logged, and the others go on. Interrupted after a
// stop.
[[nodiscard]] PackingOutcome run_packing(const PackingRequest& request, const StopToken& stop,
                                         Observer& observer);

}  // namespace kvtool::run
