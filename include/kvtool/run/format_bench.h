// Measures what a recording costs to read: no model, no torch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kvtool/base/stop.h"
#include "kvtool/run/result.h"

namespace kvtool::run {

struct FormatBenchOptions {
  std::uint64_t repeats = 5;
  std::vector<std::string> only;  // names of measurements; empty: all
};

// In the order in which they are measured and shown.
[[nodiscard]] std::vector<std::string> format_measurement_names();

// Measures everything once in each repeat, so that what disturbs the machine for a
// while disturbs all measurements alike. The first, uncounted round brings the file into the page
// cache as far as it fits. What a recording does not hold is in left_out, with the reason.
//
// Interrupted after a stop; errors as Recording. A rebuilt cache that differs
// from the recording's state is an Error kCorrupt.
[[nodiscard]] RecordingBench bench_recording(const std::filesystem::path& path,
                                             const FormatBenchOptions& options,
                                             const StopToken& stop);

}  // namespace kvtool::run
