// What all reports for people say of a lab: the columns of its table, and the lines around it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kvtool/run/lab.h"

namespace kvtool::report {

// Columns that a narrow page shows together.
enum class LabGroup : std::uint8_t { kFlips, kLogits, kRows, kBytes, kTime, kPages, kWaiting };

struct LabColumn {
  std::string_view title;  // as docs/lab.md names it
  LabGroup group;
  std::size_t width;                            // of a column on the console, a blank included
  std::string (*cell)(const run::LabRow& row);  // of a row that ran
};
[[nodiscard]] std::vector<LabColumn> lab_columns();
// Those in which some row has a figure.
[[nodiscard]] std::vector<LabColumn> lab_columns(const run::LabResult& result);
// "-" of a row that did not run.
[[nodiscard]] std::string lab_cell(const LabColumn& column, const run::LabRow& row);

// "4.5e-03 ± 2e-04", "≥ 1e-3" of a lower bound.
[[nodiscard]] std::string lab_kl_mean(const run::LabQuality& quality);
// "quest:page=32 25%", at most so many characters, with the budget in any case.
[[nodiscard]] std::string lab_label(const run::LabRow& row, std::size_t characters);
// What ran, why nothing did, or why the row claims nothing.
[[nodiscard]] std::string lab_row_line(const run::LabRow& row);
// Of each policy that acted: bytes and time against the full cache, with its quality.
[[nodiscard]] std::vector<std::string> lab_claims(const run::LabResult& result);
// How many checks hold, and one for each that does not; none where there was nothing to check.
[[nodiscard]] std::vector<std::string> lab_check_lines(const run::LabResult& result);
// "one model ... 3 inputs, 381 steps", notes and how to read it.
[[nodiscard]] std::vector<std::string> lab_setting_lines(const run::LabResult& result);

}  // namespace kvtool::report
