#include "kvtool/run/load_gate.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/run/prompts.h"

namespace kvtool::run {
namespace {

constexpr std::uint64_t kMaxGateBytes = std::uint64_t{16} << 20U;

}  // namespace

analysis::GateSpec load_gate(const std::string& name_or_path) {
  const auto names = analysis::builtin_gate_names();
  if (std::find(names.begin(), names.end(), name_or_path) != names.end()) {
    return analysis::GateSpec::builtin(name_or_path);
  }
  if (!std::filesystem::is_regular_file(name_or_path)) {
    std::string known;
    for (const std::string_view name : names) {
      known += (known.empty() ? "" : ", ") + std::string(name);
    }
    throw_usage("gate '" + name_or_path + "': there is no such file, and the built-in gates are " +
                known);
  }
  return analysis::GateSpec::parse(
      parse_json_text(read_text_file(name_or_path, kMaxGateBytes), name_or_path,
                      /*ignore_comments=*/true),
      name_or_path);
}

}  // namespace kvtool::run
