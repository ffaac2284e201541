// The figures of a run side by side: the prefill and every mode that ran.
#pragma once

#include <string>
#include <vector>

#include "kvtool/run/result.h"

namespace kvtool::report {

struct ModeTable {
  struct Row {
    std::string label;
    std::vector<std::string> cells;  // one per column, "-" where nothing was measured
  };
  std::vector<std::string> columns;  // "prefill", "inject", ...
  std::vector<Row> rows;             // only those with a cell that was measured
};

[[nodiscard]] ModeTable mode_table(const run::Verdict& verdict);

}  // namespace kvtool::report
