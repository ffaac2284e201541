// What all reports for people say of experiments: the columns of their table, and the lines around
// it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/run/experiment.h"

namespace kvtool::report {

// Columns that a narrow page shows together.
enum class ExperimentGroup : std::uint8_t { kTime, kMemory, kQuality };

struct ExperimentColumn {
  std::string_view title;  // as docs/experiment.md names it
  ExperimentGroup group;
  std::size_t width;  // on the console, a blank included
  std::string (*cell)(const run::Experiment& experiment);
};
[[nodiscard]] std::span<const ExperimentColumn> experiment_columns();
// "-" of one that has no figures.
[[nodiscard]] std::string experiment_cell(const ExperimentColumn& column,
                                          const run::Experiment& experiment);

// The mode, with its number in the list and its model where they tell it from others.
[[nodiscard]] std::string experiment_label(const run::ExperimentResult& result,
                                           const run::Experiment& experiment);
// The cache that ran, and whatever went otherwise than asked for.
[[nodiscard]] std::string experiment_line(const run::Experiment& experiment);
// Of each mode but the baseline: what it changed, with its quality, or why nothing is claimed.
[[nodiscard]] std::vector<std::string> experiment_claims(const run::ExperimentResult& result);
// "9 of 10 experiments succeeded", how figures are to be read, and notes.
[[nodiscard]] std::vector<std::string> experiment_setting_lines(
    const run::ExperimentResult& result);

}  // namespace kvtool::report
