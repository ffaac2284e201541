// Pictures of what experiments found, as SVG that needs no script and no style sheet.
#pragma once

#include <string>
#include <vector>

#include "kvtool/run/experiment.h"

namespace kvtool::report::html {

inline constexpr double kExperimentChartWidth = 620;
inline constexpr double kExperimentChartHeight = 320;

// Colours of a page, which may be variables of its style sheet, or of a picture by itself.
struct ChartPalette {
  std::string words;
  std::string grid;
  std::vector<std::string> lines;
};
[[nodiscard]] ChartPalette page_palette();
[[nodiscard]] ChartPalette picture_palette();

struct ExperimentChart {
  std::string title;
  std::string body;  // elements in a box of the size above
};
// Those of latency, tokens, hits, memory, traffic and quality that have something to show.
[[nodiscard]] std::vector<ExperimentChart> experiment_charts(const run::ExperimentResult& result,
                                                             const ChartPalette& palette);

}  // namespace kvtool::report::html
