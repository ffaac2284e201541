// Packs or unpacks many recordings at a time.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "kvtool/report/result.h"

namespace kvtool::cli {

struct PackingJob {
  bool unpack = false;
  std::vector<std::filesystem::path> recordings;
  std::string output;    // empty: each in place; else the only recording's new file
  unsigned threads = 0;  // 0: one per core
  // Called by the threads, one at a time, with the bytes read so far.
  std::function<void(std::uint64_t bytes)> progress;
};

struct PackingOutcome {
  report::PackingResult result;
  int exit_status = 0;  // of the first recording that failed
};

// A recording that fails is reported and logged, and the others go on. Throws
// Interrupted after a signal.
[[nodiscard]] PackingOutcome run_packing(const PackingJob& job);

}  // namespace kvtool::cli
