// Checks every byte of recordings.
#pragma once

#include <filesystem>
#include <vector>

#include "kvtool/run/observer.h"
#include "kvtool/run/services.h"

namespace kvtool::run {

struct VerificationRequest {
  std::vector<std::filesystem::path> recordings;
  unsigned threads = 0;  // 0: one per core
};

// Tells each file's verdict, then the totals, and returns these. Files that cannot be read are
// verdicts too. Interrupted after a stop.
VerifyTotals run_verification(const VerificationRequest& request, const Services& services,
                              Observer& observer);

}  // namespace kvtool::run
