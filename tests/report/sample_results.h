// Results with every part set, for golden texts.
#pragma once

#include "kvtool/report/reporter.h"

namespace kvtool::report {

[[nodiscard]] InputResult generated_input();
// Five tokens of which token 2 is a tie; K/V of the steps differs.
[[nodiscard]] InputResult replayed_input();
[[nodiscard]] RecordingInfo recording_info();
// The calls of a whole command, in order.
void report_all(Reporter& reporter, const InputResult& input);

}  // namespace kvtool::report
