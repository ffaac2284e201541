// Makes a complete recording out of a truncated or damaged one.
#pragma once

#include <string>

#include "kvtool/run/observer.h"
#include "kvtool/run/services.h"

namespace kvtool::run {

struct RecoveryRequest {
  std::string input;     // only read
  std::string output;    // *.kvc
  bool salvage = false;  // also OUTPUT.salvaged.safetensors, what is intact behind the damage
  bool force = false;    // replace what exists
};

// Error kUsage for names that cannot be, kCorrupt when nothing can be recovered. What was lost
// is in the result. Interrupted after a stop.
format::RecoverResult run_recovery(const RecoveryRequest& request, const Services& services,
                                   Observer& observer);

}  // namespace kvtool::run
