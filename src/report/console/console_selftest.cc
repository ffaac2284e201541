// A selftest on the console: what each fault did to the gate.
#include "console/console_page.h"
#include "mismatches.h"
#include "wording.h"

namespace kvtool::report {
namespace {

constexpr std::size_t kStatusColumn = 9;

void show_under_status(ConsolePage& page, const std::string& text) {
  page.wrapped_line(std::string(kStatusColumn, ' ') + text, kStatusColumn + 2);
}

void show_strengths(ConsolePage& page, const run::FaultResult& fault) {
  if (!fault.smallest_caught && !fault.largest_missed) return;
  std::string text;
  if (fault.smallest_caught) {
    text = fmt::format("smallest strength still caught: {:.3g}", *fault.smallest_caught);
  }
  if (fault.largest_missed) {
    text += fmt::format("{}{:.3g} passes", text.empty() ? "" : "; ", *fault.largest_missed);
  }
  if (!fault.strength_unit.empty()) text += fmt::format(" ({})", one_line(fault.strength_unit));
  show_under_status(page, text);
}

void show_fault(ConsolePage& page, const run::FaultResult& fault) {
  const bool skipped = !fault.skipped.empty();
  const std::string status = skipped ? "SKIPPED" : fault.caught ? "CAUGHT" : "MISSED";
  const std::string padding(kStatusColumn - status.size(), ' ');
  const std::string painted =
      skipped ? status : page.painted(fault.caught ? Paint::kGood : Paint::kBad, status);
  page.wrapped_line(fmt::format("{}{}{}: {}", painted, padding, one_line(fault.name),
                                one_line(fault.description)),
                    kStatusColumn + 2);
  if (skipped) {
    show_under_status(page, one_line(fault.skipped));
    return;
  }
  if (!fault.failed_rules.empty()) {
    const std::size_t more = fault.failed_rules.size() - 1;
    show_under_status(
        page, fmt::format("by {}{}", one_line(describe(fault.failed_rules.front())),
                          more > 0 ? fmt::format(" (and {} more)", counted(more, "rule")) : ""));
  }
  if (!fault.departure.empty()) {
    show_under_status(
        page, one_line(fault.departure) + (fault.located ? " (the layer of the fault)" : ""));
  }
  show_strengths(page, fault);
}

}  // namespace

void show_selftest(ConsolePage& page, const run::SelftestResult& result) {
  page.line("");
  page.wrapped_line(
      page.painted(Paint::kBold, fmt::format("Selftest of {} with gate {}",
                                             one_line(result.model_slug), one_line(result.gate))),
      2);
  page.wrapped_line(
      fmt::format("Reference: {}, {}, {}", one_line(result.reference + cache_suffix(result.cache)),
                  counted(result.inputs, "input"), counted(result.steps, "step")),
      11);
  if (!shape_notice(result.shape).empty()) {
    page.wrapped_line(std::string(shape_notice(result.shape)), 2);
  }
  if (!result.measures_noise) page.wrapped_line(judged_by_ulp(), 2);
  page.line("Control (no fault): {}", result.control_passed ? page.painted(Paint::kGood, "passes")
                                                            : page.painted(Paint::kBad, "fails"));
  for (const analysis::RuleResult& rule : result.control_failures) {
    show_under_status(page, one_line(describe(rule)));
  }
  std::size_t injected = 0;
  std::size_t caught = 0;
  for (const run::FaultResult& fault : result.faults) {
    show_fault(page, fault);
    injected += fault.skipped.empty() ? 1 : 0;
    caught += fault.skipped.empty() && fault.caught ? 1 : 0;
  }
  page.line("Caught {} of {} in {:.1f} s", caught, counted(injected, "fault"), result.seconds);
  page.line("Result: {}", result.passed() ? page.painted(Paint::kGood, "PASS")
                                          : page.painted(Paint::kBad, "FAIL"));
}

}  // namespace kvtool::report
