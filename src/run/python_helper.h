// The Python beside kvtool: its interpreter and its files.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace kvtool::run {

// $KVTOOL_PYTHON, else the interpreter that kvtool was built with, else python3.
[[nodiscard]] std::string python_interpreter();

// Where a file of kvtool's python folder may be: in $KVTOOL_PYTHON_DIR, else beside the
// installation or in the sources.
[[nodiscard]] std::vector<std::filesystem::path> python_file_candidates(const std::string& name);
// The first of them that exists.
[[nodiscard]] std::optional<std::filesystem::path> find_python_file(const std::string& name);

// The end of what a helper printed before it failed.
[[nodiscard]] std::string last_lines(const std::string& output);

}  // namespace kvtool::run
