// Measures the noise of this machine and writes a gate from it. Each replay runs in a process
// of its own: an instruction set can be limited only before torch is loaded.
#pragma once

#include <filesystem>

#include "kvtool/run/calibration.h"
#include "kvtool/run/observer.h"
#include "kvtool/run/request.h"
#include "kvtool/run/services.h"

namespace kvtool::run {

struct CalibrationRequest {
  // One model at most, and either `from` or prompts to record; `force` replaces the gate file.
  Request run;
  std::filesystem::path target;  // the gate file
  int runs = 8;
  double safety = 2.0;
  std::filesystem::path cpuinfo = "/proc/cpuinfo";
};

// Tells `observer` the device, the model and the result. The gate has been judged over every
// run it was made of when it is written. Errors: kUsage before anything runs when the target
// or the request is no good; those of a worker, which say in which run; Interrupted after a
// stop, of this process or of a worker.
void run_calibration(const CalibrationRequest& request, const Services& services,
                     Observer& observer);

}  // namespace kvtool::run
