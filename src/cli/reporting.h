// Chooses the reporters of a command and tells them how it ended.
#pragma once

#include <functional>
#include <string>

#include "kvtool/cli/options.h"
#include "kvtool/cli/services.h"
#include "kvtool/report/reporter.h"

namespace kvtool::cli {

struct ReportingOptions {
  std::string command;
  ReportTargets targets;
  bool quiet = false;
  bool verbose = false;
};

// Runs `body` with a reporter that has begun. An exception is told to the
// reporter and goes on.
int with_reporter(Services& services, const ReportingOptions& options,
                  const std::function<int(report::Reporter&)>& body);

}  // namespace kvtool::cli
