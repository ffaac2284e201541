// The command line as a whole.
#pragma once

#include <exception>
#include <string>

#include "kvtool/cli/services.h"

namespace kvtool::cli {

// `recover` wrote what it could, but not all that the recording held.
inline constexpr int kLossyRecoveryStatus = 6;

// Parses, runs one subcommand and returns the process's exit status. Never throws.
int run_app(int argc, const char* const* argv, Services& services);

// Exit status and message of an exception: the one place where errors become
// statuses. 130 after Ctrl-C.
struct Failure {
  int exit_status = 0;
  std::string message;
};
[[nodiscard]] Failure describe_failure(const std::exception_ptr& exception);

}  // namespace kvtool::cli
