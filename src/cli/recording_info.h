// Reads what `kvtool info` shows of one recording.
#pragma once

#include <filesystem>

#include "kvtool/report/result.h"

namespace kvtool::cli {

// Errors as Recording::open().
[[nodiscard]] report::RecordingInfo read_recording_info(const std::filesystem::path& path);

}  // namespace kvtool::cli
