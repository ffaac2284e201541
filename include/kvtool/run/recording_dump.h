// Exports the K/V cache at one step as a safetensors file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kvtool/run/result.h"

namespace kvtool::run {

struct DumpRequest {
  std::string recording;
  std::optional<std::int64_t> step;  // -1: after the prefill; empty: the last one with K/V
  std::string target;                // *.safetensors
  bool force = false;                // replace what exists
};

// Error kUsage for names that cannot be and for a step that the recording has not; errors as
// Recording::open().
[[nodiscard]] DumpResult dump_recording(const DumpRequest& request);

}  // namespace kvtool::run
