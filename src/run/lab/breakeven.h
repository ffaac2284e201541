// From which context on a policy saves time, of what a lab has measured.
#pragma once

#include <vector>

#include "kvtool/run/lab.h"

namespace kvtool::run {

// Of each policy that acted, against `full`, whose steps are the same ones.
[[nodiscard]] std::vector<LabBreakeven> lab_breakeven(const std::vector<LabRow>& rows);

}  // namespace kvtool::run
