// The process that calibrate starts for each of its replays: an instruction set can be
// limited only before torch is loaded.
#pragma once

#include <string>
#include <string_view>

#include "kvtool/run/services.h"

namespace kvtool::run {

// Does the one task that run_calibration() has given to Services::worker, and returns its
// answer: one line for run_calibration(), which an Error is part of. Error kUsage for text that
// is no task; Interrupted after a stop.
[[nodiscard]] std::string do_worker_task(std::string_view task, const Services& services);

}  // namespace kvtool::run
