// A gate on the console: each rule, measured against allowed.
#include "console/console_page.h"
#include "wording.h"

namespace kvtool::report {
namespace {

constexpr std::size_t kFigureWidth = 38;
constexpr std::size_t kMeasuredWidth = 10;

void show_rule(ConsolePage& page, const analysis::RuleResult& rule) {
  const std::string status(rule_status(rule));
  const std::string painted = page.painted(rule.passed ? Paint::kGood : Paint::kBad, status) +
                              std::string(9 - status.size(), ' ');
  const std::string figure = one_line(rule.figure);
  const std::string values =
      fmt::format("{:>{}}  {}", measured_text(rule), kMeasuredWidth, allowed_text(rule.rule));
  const std::string margin(11, ' ');
  if (display_columns(figure) <= kFigureWidth) {
    const std::string gap(kFigureWidth - display_columns(figure), ' ');
    page.wrapped_line("  " + painted + figure + gap + values, margin.size());
  } else {
    page.wrapped_line("  " + painted + figure, margin.size());
    page.wrapped_line(margin + std::string(kFigureWidth, ' ') + values, margin.size());
  }
  const std::string note = pattern_note(rule);
  if (!note.empty()) page.wrapped_line(margin + note, margin.size());
}

}  // namespace

void show_gate(ConsolePage& page, const run::Verdict& verdict) {
  const analysis::GateResult& gate = verdict.gate;
  const std::size_t failed = failed_rules(gate);
  if (!verdict.gate_chosen && failed == 0) return;
  page.line("");
  std::string title =
      "Gate " + one_line(gate.gate) + ": " +
      (gate.passed ? page.painted(Paint::kGood, "PASS") : page.painted(Paint::kBad, "FAIL"));
  if (failed > 0)
    title += fmt::format(" ({} of {} failed)", failed, counted(gate.rules.size(), "rule"));
  page.wrapped_line(title, 4);
  if (verdict.gate_chosen && !verdict.gate_description.empty()) {
    page.block(printable(verdict.gate_description));
  }
  for (const analysis::RuleResult& rule : gate.rules) {
    if (verdict.gate_chosen || !rule.passed) show_rule(page, rule);
  }
}

}  // namespace kvtool::report
