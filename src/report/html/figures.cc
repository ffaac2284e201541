#include "html/figures.h"

#include <fmt/format.h>

#include <cmath>

#include "wording.h"

namespace kvtool::report::html {

std::string shown(std::optional<double> value) {
  if (!value) return "–";
  if (std::isnan(*value)) return "NaN";
  if (std::isinf(*value)) return *value > 0.0 ? "∞" : "−∞";
  const double size = std::abs(*value);
  if (size >= 1e6 || (size > 0.0 && size < 1e-3)) return fmt::format("{:.2e}", *value);
  if (*value == std::floor(*value)) return fmt::format("{:.0f}", *value);
  return fmt::format("{:.3g}", *value);
}

std::string shown_rate(std::optional<double> rate) {
  if (!rate) return "–";
  if (!std::isfinite(*rate)) return shown(rate);
  if (*rate == 1.0) return "100 %";
  // Guards against 0.57 * 10000 = 5699.999…
  const double hundredths = std::floor(*rate * 1e4 * (1.0 + 1e-12));
  return fmt::format("{:.2f} %", hundredths / 100.0);
}

std::optional<double> figure(const analysis::Figures& figures, const std::string& name) {
  const auto found = figures.find(name);
  if (found == figures.end()) return std::nullopt;
  return found->second;
}

bool is_rate(std::string_view figure_name) {
  for (const std::string_view end :
       {"_rate", "_rate_lower95", "_agreement", "_accuracy", "_fraction"}) {
    if (figure_name.ends_with(end)) return true;
  }
  return false;
}

std::string shown_figure(std::string_view figure_name, std::optional<double> value) {
  if (is_rate(figure_name)) return shown_rate(value);
  // Three digits would be lost on the nines.
  return value && figure_name.ends_with(".pearson") ? correlation(*value) : shown(value);
}

}  // namespace kvtool::report::html
