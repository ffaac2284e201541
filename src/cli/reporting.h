// Chooses the reporters of a command and tells them how it ended.
#pragma once

#include <functional>
#include <string>

#include "audience.h"
#include "options.h"
#include "terminal.h"

namespace kvtool::cli {

struct ReportingOptions {
  std::string command;
  ReportTargets targets;
  bool quiet = false;
  bool verbose = false;
};

[[nodiscard]] ReportingOptions reporting_of(std::string command, const RunOptions& options);

// Runs `body` with an observer whose reporters have begun, and returns its exit status. An
// exception is told to the reporters and goes on.
int with_observer(const Terminal& terminal, const ReportingOptions& options,
                  const std::function<int(run::Observer&)>& body,
                  const NextCommand& next_command = nullptr);

}  // namespace kvtool::cli
