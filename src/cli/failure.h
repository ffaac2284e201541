// How a command ended: the one place where errors become exit statuses and where a
// message gets the words of the command line.
#pragma once

#include <exception>
#include <string>
#include <string_view>

#include "kvtool/base/stop.h"

namespace kvtool::cli {

// `recover` wrote what it could, but not all that the recording held.
inline constexpr int kLossyRecoveryStatus = 6;

struct Failure {
  int exit_status = 0;
  std::string message;
};

// 130 once `stop` was requested, whatever was thrown.
[[nodiscard]] Failure describe_failure(const std::exception_ptr& exception, const StopToken& stop);

// `message` with its settings (base/setting.h) as options: "out" is --out.
[[nodiscard]] std::string with_options(std::string_view message);

}  // namespace kvtool::cli
