#include "lab/lab_tables.h"

namespace kvtool::report {

std::vector<LabTable> lab_tables(const run::LabResult& result) {
  std::vector<LabTable> tables;
  if (!result.pairs.empty()) tables.push_back(pairs_table(result.pairs));
  if (result.sensitivity) tables.push_back(sensitivity_table(*result.sensitivity));
  if (!result.breakeven.empty()) tables.push_back(breakeven_table(result.breakeven));
  for (const run::LabPerplexity& perplexity : result.perplexities) {
    tables.push_back(perplexity_table(perplexity));
  }
  for (const run::LabNeedles& needles : result.needles) {
    tables.push_back(needle_table(needles));
    tables.push_back(needle_grid(needles));
  }
  return tables;
}

}  // namespace kvtool::report
