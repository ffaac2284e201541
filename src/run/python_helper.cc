#include "python_helper.h"

#include <cstdlib>

namespace kvtool::run {

std::string python_interpreter() {
  if (const char* configured = std::getenv("KVTOOL_PYTHON"); configured != nullptr && *configured) {
    return configured;
  }
#ifdef KVTOOL_PYTHON_DEFAULT
  if (std::filesystem::exists(KVTOOL_PYTHON_DEFAULT)) return KVTOOL_PYTHON_DEFAULT;
#endif
  return "python3";
}

std::vector<std::filesystem::path> python_file_candidates(const std::string& name) {
  if (const char* folder = std::getenv("KVTOOL_PYTHON_DIR"); folder != nullptr && *folder) {
    return {std::filesystem::path(folder) / name};
  }
  std::error_code ignored;
  const auto binary = std::filesystem::read_symlink("/proc/self/exe", ignored);
  std::vector<std::filesystem::path> candidates = {binary.parent_path().parent_path() /
                                                   "share/kvtool/python" / name};
#ifdef KVTOOL_SOURCE_PYTHON_DIR
  candidates.emplace_back(std::filesystem::path(KVTOOL_SOURCE_PYTHON_DIR) / name);
#endif
  return candidates;
}

std::optional<std::filesystem::path> find_python_file(const std::string& name) {
  for (const auto& candidate : python_file_candidates(name)) {
    if (std::filesystem::exists(candidate)) return candidate;
  }
  return std::nullopt;
}

std::string last_lines(const std::string& output) {
  constexpr std::size_t kMaxBytes = 2000;
  const std::size_t end = output.find_last_not_of(" \n\r\t");
  if (end == std::string::npos) return "it printed nothing";
  const std::size_t start = end + 1 > kMaxBytes ? end + 1 - kMaxBytes : 0;
  return output.substr(start, end + 1 - start);
}

}  // namespace kvtool::run
