// Environment variables of two META records: the part of provenance whose members have no fixed
// names.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/analysis/provenance.h"
#include "kvtool/format/kernel_variables.h"

namespace kvtool::analysis {

// Appends the variables of format/kernel_variables.h in which the records differ, where `applies`
// says that their effect can explain anything. A record of a kvtool that did not record them says
// so where the other one has some.
void add_environment(const nlohmann::json& recorded, const nlohmann::json& live,
                     const std::function<bool(format::VariableEffect)>& applies,
                     std::vector<ProvenanceDifference>& differences);

// What one record says was set where `applies`: keys of differences to values. Nothing where the
// record cannot tell.
[[nodiscard]] std::optional<std::map<std::string, std::string>> set_variables(
    const nlohmann::json& meta, const std::function<bool(format::VariableEffect)>& applies);

// Whether a setting of device.provenance is judged here: a variable's older name.
[[nodiscard]] bool is_environment_setting(std::string_view name);

}  // namespace kvtool::analysis
