// Runs one program to its end with text on its standard input, without a shell.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kvtool::cli {

struct ProcessResult {
  int exit_status = 0;  // 128 + signal when a signal ended it
  std::string output;
  std::string error_output;
};

// argv[0] is looked up in PATH unless it holds a '/'. Input and both outputs may
// be of any size; a program that does not read its input is no error here. Error
// kEnvironment when the program cannot be started; Interrupted after Ctrl-C.
[[nodiscard]] ProcessResult run_process(const std::vector<std::string>& argv,
                                        std::string_view input);

}  // namespace kvtool::cli
