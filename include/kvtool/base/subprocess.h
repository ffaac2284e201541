// Runs one program to its end with text on its standard input, without a shell.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kvtool/base/stop.h"

namespace kvtool {

struct ProcessResult {
  int exit_status = 0;  // 128 + signal when a signal ended it
  std::string output;
  std::string error_output;
};

// argv[0] is looked up in PATH unless it holds a '/'. Input and both outputs may
// be of any size; a program that does not read its input is no error here. Error
// kEnvironment when the program cannot be started; Interrupted once `stop` is requested, and
// then the program is killed.
[[nodiscard]] ProcessResult run_process(const std::vector<std::string>& argv,
                                        std::string_view input,
                                        const StopToken& stop = StopToken());

}  // namespace kvtool
