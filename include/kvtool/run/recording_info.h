// Reads what `kvtool info` shows of one recording.
#pragma once

#include <filesystem>
#include <string>

#include "kvtool/run/observer.h"
#include "kvtool/run/result.h"

namespace kvtool::run {

// Errors as Recording::open().
[[nodiscard]] RecordingInfo read_recording_info(const std::filesystem::path& path);

// A recording, or every one below a folder; there, one that cannot be read has its reason
// instead. Error kUsage for what does not exist and for a folder without recordings.
[[nodiscard]] InfoResult read_info(const std::string& path, Observer& observer);

}  // namespace kvtool::run
