// The summary of a run on the console; the verdict of each model is in
// console_verdict.cc.
#include <algorithm>

#include "console/console_page.h"
#include "wording.h"

namespace kvtool::report {
namespace {

constexpr std::size_t kListedMissing = 10;

// Over all verdicts, of the mode that ran first: the line that scripts look for.
void show_steps(ConsolePage& page, const run::Summary& summary) {
  std::uint64_t compared = 0;
  std::uint64_t matches = 0;
  for (const run::Verdict& verdict : summary.verdicts) {
    if (verdict.run.modes.empty()) continue;
    compared += verdict.run.modes.front().steps.tokens.compared;
    matches += verdict.run.modes.front().steps.tokens.matches;
  }
  page.line("Steps: {}, Match: {}/{} ({}), TPS: {}", compared, matches, compared,
            percentage(matches, compared),
            rate(run::tokens_per_second(summary.steps, summary.decode_seconds)));
}

void show_inputs(ConsolePage& page, const run::Summary& summary) {
  std::uint64_t matching = 0;
  for (const run::Verdict& verdict : summary.verdicts) {
    if (verdict.run.modes.empty()) continue;
    for (const analysis::FirstDivergence& input : verdict.run.modes.front().first_divergences) {
      matching += input.token ? 0 : 1;
    }
  }
  page.line("Inputs: {}, fully matching: {}", summary.inputs, matching);
}

void show_comparison_speed(ConsolePage& page, const run::Summary& summary) {
  if (summary.compared_bytes == 0) return;
  const auto bytes = static_cast<double>(summary.compared_bytes);
  std::string text = fmt::format("Compared {} of K/V", megabytes(summary.compared_bytes));
  if (summary.wall_seconds > 0.0) {
    text += fmt::format(" in {:.2f} s ({:.2f} GB/s)", summary.wall_seconds,
                        bytes / summary.wall_seconds / 1e9);
  }
  page.line("{}", text);
}

void show_missing(ConsolePage& page, const run::Summary& summary) {
  if (summary.missing.empty()) return;
  page.line("");
  page.line("{}", page.painted(Paint::kBad, "Not compared, since it has no partner:"));
  for (std::size_t i = 0; i < std::min(summary.missing.size(), kListedMissing); ++i) {
    page.line("    {}", one_line(summary.missing[i]));
  }
  if (summary.missing.size() > kListedMissing) {
    page.line("    … and {} more", summary.missing.size() - kListedMissing);
  }
}

}  // namespace

void show_summary(ConsolePage& page, const run::Summary& summary, const FlipTexts& texts,
                  const std::string& command) {
  if (!page.options().quiet) page.line("");
  page.line("{}", page.painted(Paint::kBold, "Summary"));
  if (summary.verdicts.empty()) {
    page.line("Inputs: {}, steps: {}, TPS: {}", summary.inputs, summary.steps,
              rate(run::tokens_per_second(summary.steps, summary.decode_seconds)));
  } else {
    show_inputs(page, summary);
    show_steps(page, summary);
    show_comparison_speed(page, summary);
    for (const run::Verdict& verdict : summary.verdicts)
      show_verdict(page, verdict, texts, command);
    show_missing(page, summary);
    page.line("");
    page.line("Result: {}", summary.failed() ? page.painted(Paint::kBad, "FAIL")
                                             : page.painted(Paint::kGood, "PASS"));
  }
  for (const run::UsedCache& used : summary.caches) {
    if (const std::string text = cache_line(used); !text.empty()) page.line("{}", one_line(text));
  }
  if (summary.saved_recordings > 0) {
    page.line("Saved {} ({}) under", counted(summary.saved_recordings, "recording"),
              megabytes(summary.saved_bytes));
    page.line("    {}", one_line(summary.saved_directory));
  }
  if (!summary.next_command.empty() && !page.options().quiet) {
    page.line("Next:");
    page.line("    {}", one_line(summary.next_command));
  }
}

}  // namespace kvtool::report
