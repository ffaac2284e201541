// Which recordings a run is writing, to say what was kept when it ends early.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kvtool/run/observer.h"

namespace kvtool::run {

class RecordingLedger {
 public:
  explicit RecordingLedger(std::uint64_t planned) : planned_(planned) {}

  void begin_batch(std::vector<std::filesystem::path> paths) { current_ = std::move(paths); }
  void end_batch() {
    finished_ += current_.size();
    current_.clear();
  }
  // Logs "2 of 8 recordings are complete in DIR; ..." as a warning, `advice` behind it.
  void log_kept(Observer& observer, const std::filesystem::path& folder,
                const std::string& advice = {}) const;

 private:
  std::uint64_t planned_;
  std::uint64_t finished_ = 0;
  std::vector<std::filesystem::path> current_;
};

}  // namespace kvtool::run
