// Which modes a replay runs.
#pragma once

#include <vector>

#include "kvtool/analysis/gate.h"
#include "kvtool/format/replay_mode.h"

namespace kvtool::run {

// `chosen`, else those that `gate` needs. Error kUsage where one of them cannot run in parallel
// and `parallel` is wanted.
[[nodiscard]] std::vector<format::ReplayMode> replay_modes(std::vector<format::ReplayMode> chosen,
                                                           const analysis::Gate& gate,
                                                           bool parallel);

}  // namespace kvtool::run
