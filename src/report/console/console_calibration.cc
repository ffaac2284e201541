// A calibration on the console: the noise of each figure and the bound that
// follows from it.
#include "console/console_page.h"
#include "mismatches.h"
#include "wording.h"

namespace kvtool::report {

void show_calibration(ConsolePage& page, const run::CalibrationResult& result) {
  page.line("");
  page.wrapped_line(
      page.painted(Paint::kBold, fmt::format("Calibration of {}", one_line(result.model_id))), 2);
  page.wrapped_line("Reference: " + one_line(result.reference + cache_suffix(result.cache)), 11);
  if (!result.measures_noise) page.wrapped_line(judged_by_ulp(), 2);
  page.line("Runs:");
  for (const run::CalibrationRun& run : result.runs) {
    page.wrapped_line(fmt::format("    {:>7.1f} s  {}", run.seconds, one_line(run.name)), 15);
  }
  page.line("{:<42}{:>11}  {}", "Figure", "noise",
            fmt::format("allowed (factor {:.3g})", result.safety_factor));
  for (const run::CalibratedRule& rule : result.rules) {
    page.wrapped_line(fmt::format("{:<42}{:>11.4g}  {}", one_line(rule.rule.figure), rule.noise,
                                  allowed_text(rule.rule)),
                      4);
    if (!rule.run.empty() && page.options().verbose) {
      page.wrapped_line("    worst in: " + one_line(rule.run), 6);
    }
  }
  for (const std::string& note : result.notes) page.wrapped_line("Note: " + one_line(note), 6);
  page.line("Gate written to");
  page.line("    {}", one_line(result.target));
}

}  // namespace kvtool::report
