// What the page's scripts draw, as compact JSON. docs: the readers are
// inputs.js and heatmap.js, the packing is in packed_floats.h.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "kvtool/run/result.h"

namespace kvtool::report::html {

// The page's address of an input, behind '#'.
[[nodiscard]] std::string input_anchor(const std::string& model_slug,
                                       const analysis::InputName& input);

// An input's line in the list of inputs.
[[nodiscard]] nlohmann::json input_line(const run::InputResult& input);

// One input with all tokens and profiles.
[[nodiscard]] nlohmann::json input_data(const run::InputResult& input);

// The verdicts' pooled profiles and the list of inputs.
[[nodiscard]] nlohmann::json overview_data(const run::Summary& summary,
                                           const nlohmann::json& lines);

}  // namespace kvtool::report::html
