#include "environment.h"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

#include "kvtool/format/meta.h"

namespace kvtool::analysis {
namespace {

using format::VariableEffect;
using nlohmann::json;

constexpr const char* kEnvironmentKey = "device.provenance.environment";
constexpr const char* kNotSet = "not set";
constexpr const char* kNotRecorded = "not recorded";
constexpr const char* kUnjudged = "a variable that this kvtool does not know";

// Settings under which recordings hold a variable that have no object of all of them.
struct OlderName {
  std::string_view setting;
  std::string_view variable;
};
constexpr std::array kOlderNames = {
    OlderName{"onednn_max_cpu_isa", "ONEDNN_MAX_CPU_ISA"},
    OlderName{"mkl_enable_instructions", "MKL_ENABLE_INSTRUCTIONS"},
    OlderName{"cublas_workspace_config", "CUBLAS_WORKSPACE_CONFIG"},
    OlderName{"aten_cpu_capability", "ATEN_CPU_CAPABILITY"},
};

const OlderName* older_name_of(std::string_view variable) {
  const auto found = std::ranges::find(kOlderNames, variable, &OlderName::variable);
  return found == kOlderNames.end() ? nullptr : &*found;
}

struct SetVariable {
  std::string spelled;  // as it was set: oneDNN reads an older spelling, too
  std::string value;
};

class MetaSide {
 public:
  explicit MetaSide(const json& meta) {
    static const json::json_pointer kPlace("/device/provenance/environment");
    if (meta.contains(kPlace) && meta.at(kPlace).is_object()) {
      is_whole_ = true;
      take_all(meta.at(kPlace));
      return;
    }
    for (const OlderName& name : kOlderNames) {
      const auto value = format::text_at(meta, "device.provenance." + std::string(name.setting));
      if (value) variables_[std::string(name.variable)] = {std::string(name.variable), *value};
    }
  }

  // What is set, under canonical names.
  [[nodiscard]] const std::map<std::string, SetVariable>& variables() const { return variables_; }

  // Whether every variable that was set is here.
  [[nodiscard]] bool is_whole() const { return is_whole_; }

  // Nothing where the record does not tell.
  [[nodiscard]] std::optional<std::string> value_of(const std::string& name) const {
    const auto found = variables_.find(name);
    if (found != variables_.end()) return found->second.value;
    if (is_whole_ || older_name_of(name) != nullptr) return kNotSet;
    return std::nullopt;
  }

 private:
  // The newer spelling wins, in whatever order they stand.
  void take_all(const json& environment) {
    for (const auto& [name, value] : environment.items()) {
      if (!value.is_string()) continue;
      const std::string canonical = format::canonical_variable(name);
      if (canonical == name || !variables_.contains(canonical)) {
        variables_[canonical] = {name, value.get<std::string>()};
      }
    }
  }

  std::map<std::string, SetVariable> variables_;
  bool is_whole_ = false;
};

std::string spelled(const std::string& name, const MetaSide& recorded, const MetaSide& live) {
  for (const MetaSide* side : {&live, &recorded}) {
    const auto found = side->variables().find(name);
    if (found != side->variables().end()) return found->second.spelled;
  }
  return name;
}

std::string key_of(const std::string& variable) {
  const OlderName* older = older_name_of(variable);
  if (older != nullptr) return "device.provenance." + std::string(older->setting);
  return std::string(kEnvironmentKey) + "." + variable;
}

bool explains(const format::KernelVariable* row,
              const std::function<bool(VariableEffect)>& applies) {
  return row == nullptr || (row->effect != VariableEffect::kNone && applies(row->effect));
}

std::string listed(const std::vector<std::string>& variables, const MetaSide& side) {
  std::string text;
  for (const std::string& name : variables) {
    text += (text.empty() ? "" : ", ") + name + "=" + side.value_of(name).value_or(kNotSet);
  }
  return text;
}

// Variables of `side` of which the other one does not tell whether they were set.
void add_untold(const std::vector<std::string>& variables, const MetaSide& recorded, const MetaSide& live,
                std::vector<ProvenanceDifference>& differences) {
  if (variables.empty()) return;
  const auto tells = [&](const MetaSide& side) { return side.value_of(variables.front()).has_value(); };
  differences.push_back({.key = kEnvironmentKey,
                         .label = "environment variables",
                         .recorded = tells(recorded) ? listed(variables, recorded) : kNotRecorded,
                         .live = tells(live) ? listed(variables, live) : kNotRecorded,
                         .why = "they change kernels, and an older kvtool did not record them"});
}

}  // namespace

bool is_environment_setting(std::string_view name) {
  return std::ranges::find(kOlderNames, name, &OlderName::setting) != kOlderNames.end();
}

std::optional<std::map<std::string, std::string>> set_variables(
    const json& meta, const std::function<bool(VariableEffect)>& applies) {
  const MetaSide side(meta);
  if (!side.is_whole()) return std::nullopt;
  std::map<std::string, std::string> set;
  for (const auto& [name, variable] : side.variables()) {
    if (explains(format::find_kernel_variable(name), applies)) set[key_of(name)] = variable.value;
  }
  return set;
}

void add_environment(const json& recorded, const json& live,
                     const std::function<bool(VariableEffect)>& applies,
                     std::vector<ProvenanceDifference>& differences) {
  const MetaSide was(recorded);
  const MetaSide is(live);
  std::set<std::string> names;
  for (const MetaSide* side : {&was, &is}) {
    for (const auto& [name, variable] : side->variables()) names.insert(name);
  }
  std::vector<std::string> untold;
  for (const std::string& name : names) {
    const format::KernelVariable* row = format::find_kernel_variable(name);
    if (!explains(row, applies)) continue;
    const std::optional<std::string> before = was.value_of(name);
    const std::optional<std::string> now = is.value_of(name);
    if (!before || !now) {
      untold.push_back(name);
    } else if (*before != *now) {
      differences.push_back({.key = key_of(name),
                             .label = spelled(name, was, is),
                             .recorded = *before,
                             .live = *now,
                             .why = row == nullptr ? kUnjudged : std::string(row->why)});
    }
  }
  add_untold(untold, was, is, differences);
}

}  // namespace kvtool::analysis
