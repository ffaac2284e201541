// Figures as the page shows them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "kvtool/analysis/summary.h"

namespace kvtool::report::html {

// Three significant digits; "–" for nothing, "∞" and "NaN" for those.
[[nodiscard]] std::string shown(std::optional<double> value);

// A rate as percentage, rounded down so that "100 %" means all.
[[nodiscard]] std::string shown_rate(std::optional<double> rate);

[[nodiscard]] std::optional<double> figure(const analysis::Figures& figures,
                                           const std::string& name);

// Rates, agreements and fractions read better as percentages.
[[nodiscard]] bool is_rate(std::string_view figure_name);
[[nodiscard]] std::string shown_figure(std::string_view figure_name, std::optional<double> value);

}  // namespace kvtool::report::html
