#include "kvtool/format/replay_mode.h"

namespace kvtool::format {

std::string_view replay_mode_name(ReplayMode mode) {
  for (const ReplayModeInfo& info : kReplayModes) {
    if (info.mode == mode) return info.name;
  }
  return "unknown";
}

std::optional<ReplayMode> parse_replay_mode(std::string_view name) {
  for (const ReplayModeInfo& info : kReplayModes) {
    if (info.name == name) return info.mode;
  }
  return std::nullopt;
}

}  // namespace kvtool::format
