// What a lab was asked for beside its table, as tables of their own.
#pragma once

#include <string>
#include <vector>

#include "kvtool/run/lab.h"
#include "report/json/json_values.h"

namespace kvtool::report {

struct LabTable {
  std::string title;
  std::vector<std::string> head;               // the first column is on the left
  std::vector<std::vector<std::string>> rows;  // cells, as many as `head` has
  std::vector<std::string> lines;              // how to read it, and what follows from it
};

// In the order in which pages show them; those that nobody asked for are left out.
[[nodiscard]] std::vector<LabTable> lab_tables(const run::LabResult& result);

[[nodiscard]] LabTable pairs_table(const std::vector<run::LabPair>& pairs);
[[nodiscard]] LabTable sensitivity_table(const run::LabSensitivity& sensitivity);
[[nodiscard]] LabTable breakeven_table(const std::vector<run::LabBreakeven>& breakeven);
[[nodiscard]] LabTable perplexity_table(const run::LabPerplexity& perplexity);
[[nodiscard]] LabTable needle_table(const run::LabNeedles& needles);
[[nodiscard]] LabTable needle_grid(const run::LabNeedles& needles);  // by depth
// What the cache did to what it read, or why it did not run.
[[nodiscard]] std::string reading_note(const run::LabReading& reading);

[[nodiscard]] Json json_lab_quality(const run::LabQuality& quality);
[[nodiscard]] Json json_pairs(const std::vector<run::LabPair>& pairs);
[[nodiscard]] Json json_sensitivity(const run::LabSensitivity& sensitivity);
[[nodiscard]] Json json_breakeven(const std::vector<run::LabBreakeven>& breakeven);
[[nodiscard]] Json json_reading(const run::LabReading& reading);
[[nodiscard]] Json json_perplexity(const std::vector<run::LabPerplexity>& perplexities);
[[nodiscard]] Json json_needles(const std::vector<run::LabNeedles>& needles);

}  // namespace kvtool::report
