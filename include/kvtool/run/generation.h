// generate and save: prompts -> batches -> engine -> results and recordings.
#pragma once

#include "kvtool/run/observer.h"
#include "kvtool/run/request.h"
#include "kvtool/run/services.h"

namespace kvtool::run {

// Error kUsage for a request without prompts or models, and for prompts that do not fit
// the model; errors of the engine and of writing as they come. Interrupted after a stop.
Summary run_generation(const Request& request, const Services& services, Observer& observer);

}  // namespace kvtool::run
