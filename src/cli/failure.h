// How a command ended: the one place where errors become exit statuses and where a
// message gets the words of the command line.
#pragma once

#include <exception>
#include <string>
#include <string_view>

#include "kvtool/base/error.h"
#include "kvtool/base/stop.h"

namespace kvtool::cli {

// `recover` wrote what it could, but not all that the recording held.
inline constexpr int kLossyRecoveryStatus = 6;

// Of an error that kvtool, not its user, has to mend.
inline constexpr int kBugStatus = static_cast<int>(ErrorCode::kInternal);

struct Failure {
  int exit_status = 0;
  std::string message;
};

// A code's exit status; that of a call which breaks a contract is the one of a bug.
[[nodiscard]] int exit_status_of(ErrorCode code);

// 130 once `stop` was requested, whatever was thrown.
[[nodiscard]] Failure describe_failure(const std::exception_ptr& exception, const StopToken& stop);

// What a report of a bug must hold; `program` names version and build.
[[nodiscard]] std::string what_to_report(const std::string& program, int argc,
                                         const char* const* argv);

// `message` with its settings (base/setting.h) as options: "out" is --out.
[[nodiscard]] std::string with_options(std::string_view message);

}  // namespace kvtool::cli
