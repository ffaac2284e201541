#include "kvtool/format/kernel_variables.h"

#include <algorithm>

namespace kvtool::format {
namespace {

constexpr std::string_view kOldPrefix = "DNNL_";
constexpr std::string_view kNewPrefix = "ONEDNN_";

bool stands_for(const KernelVariable& row, std::string_view name) {
  if (!row.name.ends_with('*')) return row.name == name;
  return name.starts_with(row.name.substr(0, row.name.size() - 1));
}

}  // namespace

std::string canonical_variable(std::string_view name) {
  if (!name.starts_with(kOldPrefix)) return std::string(name);
  return std::string(kNewPrefix) + std::string(name.substr(kOldPrefix.size()));
}

const KernelVariable* find_kernel_variable(std::string_view name) {
  const std::string wanted = canonical_variable(name);
  // A family stands behind the rows of its own members.
  const auto row = std::ranges::find_if(
      kKernelVariables, [&](const KernelVariable& each) { return stands_for(each, wanted); });
  return row == kKernelVariables.end() ? nullptr : &*row;
}

std::map<std::string, std::string> recorded_variables(const char* const* environment) {
  std::map<std::string, std::string> variables;
  for (; environment != nullptr && *environment != nullptr; ++environment) {
    const std::string_view entry = *environment;
    const std::size_t equals = entry.find('=');
    if (equals == std::string_view::npos || equals + 1 == entry.size()) continue;
    const std::string_view name = entry.substr(0, equals);
    const KernelVariable* row = find_kernel_variable(name);
    if (row == nullptr || row->effect == VariableEffect::kNone) continue;
    variables.emplace(name, entry.substr(equals + 1));
  }
  return variables;
}

}  // namespace kvtool::format
