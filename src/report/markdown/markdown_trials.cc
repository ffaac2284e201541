// Selftest and calibration in Markdown.
#include <fmt/format.h>

#include "markdown/markdown_page.h"
#include "mismatches.h"
#include "wording.h"

namespace kvtool::report {
namespace {

std::string caught_by(const run::FaultResult& fault) {
  if (!fault.skipped.empty()) return markdown_text(fault.skipped);
  if (fault.failed_rules.empty()) return "-";
  return markdown_text(describe(fault.failed_rules.front()));
}

std::string strength_text(const std::optional<double>& strength) {
  return strength ? fmt::format("{:.3g}", *strength) : "-";
}

}  // namespace

void add_markdown_selftest(MarkdownPage& page, const run::SelftestResult& result) {
  std::string text = fmt::format(
      "## Selftest of {}: {}\n\nGate {}, reference: {}. The replay without a fault {}.\n\n",
      markdown_text(result.model_slug), result.passed() ? "PASS" : "FAIL",
      markdown_text(result.gate), markdown_text(result.reference + cache_suffix(result.cache)),
      result.control_passed ? "passes" : "**fails**");
  if (!shape_notice(result.shape).empty()) {
    text += std::string(shape_notice(result.shape)) + "\n\n";
  }
  if (!result.measures_noise) text += judged_by_ulp() + "\n\n";
  for (const analysis::RuleResult& rule : result.control_failures) {
    text += "- " + markdown_text(describe(rule)) + "\n";
  }
  if (!result.control_failures.empty()) text += "\n";
  MarkdownTable table({"", "fault", "by", "begins", ">smallest caught", ">largest missed"});
  for (const run::FaultResult& fault : result.faults) {
    table.row({!fault.skipped.empty() ? "skipped"
               : fault.caught         ? "caught"
                                      : "**MISSED**",
               markdown_text(fault.description.empty() ? fault.name : fault.description),
               caught_by(fault), fault.departure.empty() ? "-" : markdown_text(fault.departure),
               strength_text(fault.smallest_caught), strength_text(fault.largest_missed)});
  }
  page.add(text + table.text());
}

void add_markdown_calibration(MarkdownPage& page, const run::CalibrationResult& result) {
  page.add(fmt::format(
      "## Calibration of {}\n\nReference: {}. Gate file: {}. Safety factor {:.3g}.\n\n",
      markdown_text(result.model_id), markdown_text(result.reference + cache_suffix(result.cache)),
      markdown_code(result.target), result.safety_factor));
  if (!result.measures_noise) page.add(judged_by_ulp() + "\n\n");
  MarkdownTable rules({"figure", ">noise", "allowed", "worst in"});
  for (const run::CalibratedRule& rule : result.rules) {
    rules.row({markdown_code(rule.rule.figure), fmt::format("{:.4g}", rule.noise),
               allowed_text(rule.rule), markdown_text(rule.run)});
  }
  page.add(rules.text());
  MarkdownTable runs({"run", ">seconds"});
  for (const run::CalibrationRun& run : result.runs) {
    runs.row({markdown_text(run.name), fmt::format("{:.1f}", run.seconds)});
  }
  page.add(runs.text());
  std::string notes;
  for (const std::string& note : result.notes) notes += "- " + markdown_text(note) + "\n";
  if (!notes.empty()) page.add(notes + "\n");
}

}  // namespace kvtool::report
