// Selftest and calibration.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "html/escape.h"
#include "html/figures.h"
#include "html/sections.h"
#include "kvtool/base/text.h"
#include "mismatches.h"
#include "wording.h"

namespace kvtool::report::html {
namespace {

constexpr std::size_t kShownDetections = 3;

std::string detections(const run::FaultResult& fault) {
  if (!fault.skipped.empty()) return text(fault.skipped);
  std::string list;
  for (std::size_t i = 0; i < std::min(fault.failed_rules.size(), kShownDetections); ++i) {
    list += "<div>" + text(analysis::describe(fault.failed_rules[i])) + "</div>";
  }
  if (fault.failed_rules.size() > kShownDetections) {
    list += fmt::format("<div class=\"quiet\">and {} more</div>",
                        fault.failed_rules.size() - kShownDetections);
  }
  return list.empty() ? "nothing" : list;
}

std::string fault_state(const run::FaultResult& fault) {
  if (!fault.skipped.empty()) return "<span class=\"quiet\">skipped</span>";
  return fault.caught ? "<span class=\"ok\">✓ caught</span>"
                      : "<span class=\"bad\">✗ MISSED</span>";
}

std::string smallest(const run::FaultResult& fault) {
  if (!fault.smallest_caught) return "–";
  std::string cell = shown(fault.smallest_caught);
  if (fault.largest_missed)
    cell += " <span class=\"quiet\">(" + shown(fault.largest_missed) + " passes)</span>";
  if (!fault.strength_unit.empty()) {
    cell += "<div class=\"quiet\">" + text(fault.strength_unit) + "</div>";
  }
  return cell;
}

std::string fault_row(const run::FaultResult& fault) {
  const bool missed = fault.skipped.empty() && !fault.caught;
  std::string begins = fault.departure.empty() ? std::string("–") : text(fault.departure);
  if (fault.located) begins += " <span class=\"ok\">✓ the fault's layer</span>";
  return fmt::format(
      "<tr class=\"{}\"><td class=\"mark\">{}</td><th scope=\"row\">{}<div class=\"quiet\">{}</div>"
      "</th><td>{}</td><td>{}</td><td class=\"number\">{}</td></tr>\n",
      missed ? "failed" : "passed", fault_state(fault), text(fault.name), text(fault.description),
      detections(fault), begins, smallest(fault));
}

std::string notice(std::string_view words) {
  return words.empty() ? std::string() : fmt::format("<p class=\"notice\">{}</p>\n", text(words));
}

std::string judged_notice(bool measures_noise) {
  return notice(measures_noise ? std::string() : judged_by_ulp());
}

std::string rules_table(const run::CalibrationResult& result) {
  std::string table =
      "<div class=\"scroll\"><table><thead><tr><th>Figure</th><th class=\"number\">Noise</th>"
      "<th class=\"number\">Allowed</th><th>Seen in</th></tr></thead><tbody>\n";
  for (const run::CalibratedRule& calibrated : result.rules) {
    const std::string& name = calibrated.rule.figure;
    const std::string allowed = calibrated.rule.max
                                    ? "≤ " + shown_figure(name, calibrated.rule.max)
                                    : "≥ " + shown_figure(name, calibrated.rule.min);
    table += fmt::format(
        "<tr><th scope=\"row\"><code>{}</code></th><td class=\"number\">{}</td>"
        "<td class=\"number\">{}</td><td>{}</td></tr>\n",
        text(name), shown_figure(name, calibrated.noise), allowed, text(calibrated.run));
  }
  return table + "</tbody></table></div>\n";
}

std::string runs_table(const run::CalibrationResult& result) {
  const bool estimated =
      std::any_of(result.runs.begin(), result.runs.end(), [](const run::CalibrationRun& run) {
        return run.figures.contains("inject.kl_estimate.p99");
      });
  const std::array columns = {"tokens.match_rate", estimated ? "kl_estimate.p99" : "kl.p99",
                              "kv.key.relative_l2", "kv.value.relative_l2"};
  std::string table =
      "<div class=\"scroll\"><table><thead><tr><th>Run</th><th>Instruction set</th>"
      "<th class=\"number\">Threads</th><th>Batch</th><th class=\"number\">Seconds</th>";
  for (const char* column : columns) {
    table += fmt::format("<th class=\"number\"><code>inject.{}</code></th>", column);
  }
  table += "</tr></thead><tbody>\n";
  for (const run::CalibrationRun& run : result.runs) {
    table += fmt::format(
        "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"number\">{}</td>"
        "<td>{}</td><td class=\"number\">{:.1f}</td>",
        text(run.name), text(run.cpu_isa),
        run.threads == 0 ? std::string("default") : std::to_string(run.threads), text(run.batch),
        run.seconds);
    for (const char* column : columns) {
      const std::string name = fmt::format("inject.{}", column);
      table += "<td class=\"number\">" + shown_figure(name, figure(run.figures, name)) + "</td>";
    }
    table += "</tr>\n";
  }
  return table + "</tbody></table></div>\n";
}

}  // namespace

std::string selftest_section(const run::SelftestResult& result) {
  std::uint64_t caught = 0;
  std::uint64_t injected = 0;
  std::string rows;
  for (const run::FaultResult& fault : result.faults) {
    injected += fault.skipped.empty() ? 1 : 0;
    caught += fault.caught ? 1 : 0;
    rows += fault_row(fault);
  }
  std::string section = fmt::format(
      "<section class=\"card\">\n<header class=\"verdict\"><div class=\"badge-line\">{}<div>"
      "<h2>Selftest of gate <code>{}</code> with {}</h2><p class=\"pair\">{}</p></div></div>"
      "<p class=\"finding\">{} of {} caught; the control run without a fault {}.</p></header>\n",
      badge(result.passed() ? Outcome::kPass : Outcome::kFail), text(result.gate),
      text(result.model_slug), text(result.reference + cache_suffix(result.cache)), caught,
      counted(injected, "injected fault"), result.control_passed ? "passes" : "FAILS");
  section +=
      fmt::format("<p class=\"quiet\">{}, {}, {:.1f} s</p>\n", counted(result.inputs, "input"),
                  counted(result.steps, "step"), result.seconds);
  section += notice(shape_notice(result.shape)) + judged_notice(result.measures_noise);
  if (!result.control_failures.empty()) {
    section += "<h3>Why the control fails</h3>\n" + gate_table(result.control_failures);
  }
  return section +
         "<div class=\"scroll\"><table class=\"faults\"><thead><tr><th>Result</th><th>Fault</th>"
         "<th>Detected by</th><th>Error begins at</th><th class=\"number\">Smallest caught</th>"
         "</tr></thead><tbody>\n" +
         rows + "</tbody></table></div>\n</section>\n";
}

std::string calibration_section(const run::CalibrationResult& result) {
  std::string section = fmt::format(
      "<section class=\"card\">\n<header class=\"verdict\"><div class=\"badge-line\">{}<div>"
      "<h2>Noise floor of {}</h2><p class=\"pair\">{}</p></div></div><p class=\"finding\">"
      "{}, limits {:.3g} times the worst noise, written to <code>{}</code>.</p></header>\n",
      badge(Outcome::kDone), text(result.model_id),
      text(result.reference + cache_suffix(result.cache)), counted(result.runs.size(), "repeat"),
      result.safety_factor, text(result.target));
  section += judged_notice(result.measures_noise);
  section += "<h3>Limits</h3>\n" + rules_table(result) + "<h3>Evidence</h3>\n" + runs_table(result);
  if (!result.notes.empty()) {
    section += "<ul class=\"notes\">\n";
    for (const std::string& note : result.notes) section += "<li>" + text(note) + "</li>\n";
    section += "</ul>\n";
  }
  return section + "</section>\n";
}

}  // namespace kvtool::report::html
