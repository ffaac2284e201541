#include "replay_modes.h"

#include <algorithm>
#include <string>

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"

namespace kvtool::run {

std::vector<format::ReplayMode> replay_modes(std::vector<format::ReplayMode> chosen,
                                             const analysis::Gate& gate, bool parallel) {
  const bool from_gate = chosen.empty();
  if (from_gate) chosen = analysis::modes_for(gate);
  if (!parallel || std::ranges::find(chosen, format::ReplayMode::kFree) == chosen.end()) {
    return chosen;
  }
  throw_usage(
      (from_gate ? "the gate " + gate.name + " needs the mode free, which" : "the mode free") +
      " cannot run in parallel, since each of its tokens depends on the one before: leave " +
      setting("parallel") + " out, or " +
      (from_gate ? "choose " + setting("mode") + " inject,forced" : setting("mode") + " free"));
}

}  // namespace kvtool::run
