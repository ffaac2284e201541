// Gives a task to a process of its own, where an instruction set can be limited before torch is
// loaded.
#pragma once

#include <string>

#include "kvtool/run/services.h"
#include "worker_messages.h"

namespace kvtool::run {

// `what` begins the message where that fails. Errors: the worker's own; kEnvironment for one that
// gave no answer; Interrupted after a stop, of this process or of the worker.
[[nodiscard]] WorkerAnswer ask_worker(const Services& services, const WorkerTask& task,
                                      const std::string& what);

}  // namespace kvtool::run
