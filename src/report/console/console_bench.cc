// Measurements of recordings on the console, as `kvtool bench` shows them.
#include "console/console_page.h"
#include "wording.h"

namespace kvtool::report {
namespace {

void show_figure(ConsolePage& page, const run::BenchFigure& figure) {
  page.line("{:<30}{:>6}{:>12.3f}{:>12.3f}{:>12.3f}", figure.title, figure.unit, figure.median(),
            figure.least(), figure.most());
}

void show_recording(ConsolePage& page, const run::RecordingBench& recording,
                    std::uint64_t repeats) {
  page.line("{}", one_line(recording.path));
  page.line("{}, {}, {}, K/V {}", megabytes(recording.bytes), recording.save_mode,
            counted(recording.steps, "step"), megabytes(recording.kv_bytes));
  if (!recording.figures.empty()) {
    page.line("{:<30}{:>6}{:>12}{:>12}{:>12}", counted(repeats, "repeat"), "", "median", "least",
              "most");
  }
  for (const run::BenchFigure& figure : recording.figures) show_figure(page, figure);
  for (const auto& [name, reason] : recording.left_out) {
    page.wrapped_line(fmt::format("{} left out: {}", name, reason), 4);
  }
}

}  // namespace

void show_bench(ConsolePage& page, const run::BenchResult& result) {
  if (!result.made.path.empty()) {
    page.line("Wrote {} ({})", one_line(result.made.path), megabytes(result.made.bytes));
  }
  bool first = true;
  for (const run::RecordingBench& recording : result.recordings) {
    if (!first) page.line("");
    first = false;
    show_recording(page, recording, result.repeats);
  }
}

}  // namespace kvtool::report
