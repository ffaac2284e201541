#include "kvtool/format/replay_mode.h"

#include <array>

namespace kvtool::format {
namespace {

constexpr std::array kModes = {ReplayMode::kInject, ReplayMode::kForced, ReplayMode::kFree};

}  // namespace

std::string_view replay_mode_name(ReplayMode mode) {
  switch (mode) {
    case ReplayMode::kInject: return "inject";
    case ReplayMode::kForced: return "forced";
    case ReplayMode::kFree: return "free";
  }
  return "unknown";
}

std::optional<ReplayMode> parse_replay_mode(std::string_view name) {
  for (const ReplayMode mode : kModes) {
    if (replay_mode_name(mode) == name) return mode;
  }
  return std::nullopt;
}

}  // namespace kvtool::format
