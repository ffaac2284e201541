// What holds of policies that do what they say, and how far a policy is from the best choice.
#pragma once

#include <vector>

#include "kvtool/run/lab.h"

namespace kvtool::run {

// Of rows that count, by agreement: a check fails where the whole interval of what must be at least
// as good lies below that of the other.
[[nodiscard]] std::vector<LabCheck> lab_checks(const std::vector<LabRow>& rows);

// Sets the regret of rows in whose frame mass ran.
void set_regrets(std::vector<LabRow>& rows);

}  // namespace kvtool::run
