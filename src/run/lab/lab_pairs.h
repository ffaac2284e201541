// Which choice is best at equal budget, and how sure that is.
#pragma once

#include <vector>

#include "kvtool/run/lab.h"

namespace kvtool::run {

// Of each frame with several choices that a real system can make: the best against each other one.
[[nodiscard]] std::vector<LabPair> lab_pairs(const std::vector<LabRow>& rows);

}  // namespace kvtool::run
