#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "html/escape.h"
#include "html/sections.h"
#include "wording.h"

namespace kvtool::report::html {
namespace {

// Share of the allowance that the measured value uses: 1 is the limit, infinite
// where nothing was allowed. A rate's allowance is what its minimum leaves to 1.
std::optional<double> used_share(const analysis::RuleResult& result) {
  if (!result.measured) return std::nullopt;
  const auto share = [](double used, double allowed) {
    if (allowed > 0.0) return used / allowed;
    return used > 0.0 ? std::numeric_limits<double>::infinity() : 0.0;
  };
  const double measured = *result.measured;
  std::optional<double> used;
  if (result.rule.max && *result.rule.max >= 0.0) {
    used = share(std::max(measured, 0.0), *result.rule.max);
  }
  if (result.rule.min && *result.rule.min >= 0.0 && *result.rule.min <= 1.0 && measured <= 1.0) {
    used = std::max(used.value_or(0.0), share(1.0 - measured, 1.0 - *result.rule.min));
  }
  return used;
}

std::string share_label(double used) {
  if (std::isinf(used)) return "over 0";
  if (used >= 1000.0) return "> 1000×";
  if (used > 1.0) return fmt::format("{:.3g}×", used);
  if (used > 0.0 && used < 0.01) return "< 1 %";
  return fmt::format("{:.0f} %", used * 100.0);
}

std::string usage_bar(const analysis::RuleResult& result) {
  const auto used = used_share(result);
  if (!used || std::isnan(*used)) return "<span class=\"quiet\">–</span>";
  const double width = std::clamp(*used, 0.0, 1.0) * 100.0;
  return fmt::format(
      "<span class=\"usage {}\"><span class=\"track\"><span class=\"fill\" "
      "style=\"width:{:.1f}%\"></span></span><span class=\"share\">{}</span></span>",
      result.passed ? "within" : "over", width, share_label(*used));
}

std::string figure_cell(const analysis::RuleResult& result) {
  const std::string& name = result.figure.empty() ? result.rule.figure : result.figure;
  std::string cell = "<code>" + text(name) + "</code>";
  const std::string note = pattern_note(result);
  if (!note.empty()) cell += " <span class=\"quiet\">" + text(note) + "</span>";
  return cell;
}

std::string rule_row(const analysis::RuleResult& result) {
  return fmt::format(
      "<tr class=\"{}\"><td class=\"mark\">{} {}</td><th scope=\"row\">{}</th>"
      "<td class=\"number\">{}</td><td class=\"number\">{}</td><td>{}</td></tr>\n",
      result.passed ? "passed" : "failed",
      !result.unjudged.empty() ? "–"
      : result.passed          ? "✓"
                               : "✗",
      rule_status(result), figure_cell(result), text(measured_text(result)),
      text(allowed_text(result.rule)), usage_bar(result));
}

}  // namespace

std::string gate_table(const std::vector<analysis::RuleResult>& rules) {
  if (rules.empty()) return "<p class=\"quiet\">The gate has no rules.</p>\n";
  std::string table =
      "<div class=\"scroll\"><table class=\"gate\"><thead><tr><th>Rule</th><th>Figure</th>"
      "<th class=\"number\">Measured</th><th class=\"number\">Allowed</th>"
      "<th>Allowance used</th></tr></thead><tbody>\n";
  // What failed comes first; a stable order keeps the gate's own below.
  for (const bool passed : {false, true}) {
    for (const analysis::RuleResult& result : rules) {
      if (result.passed == passed) table += rule_row(result);
    }
  }
  return table + "</tbody></table></div>\n";
}

}  // namespace kvtool::report::html
