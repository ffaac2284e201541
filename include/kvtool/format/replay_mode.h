// How a replay feeds the device under test: the modes that there are, which options,
// help texts, documentation and tests iterate.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace kvtool::format {

enum class ReplayMode : std::uint8_t {
  kInject,  // the reference's K/V and the reference's token at every step
  kForced,  // the device's own K/V, the reference's tokens
  kFree,    // the device's own K/V and its own tokens
};

struct ReplayModeInfo {
  ReplayMode mode;
  std::string_view name;
  std::string_view summary;  // what a step works on
};
inline constexpr std::array kReplayModes = {
    ReplayModeInfo{ReplayMode::kInject, "inject", "the recorded K/V and token at every step"},
    ReplayModeInfo{ReplayMode::kForced, "forced", "own K/V, recorded tokens"},
    ReplayModeInfo{ReplayMode::kFree, "free", "own K/V and tokens"},
};

[[nodiscard]] std::string_view replay_mode_name(ReplayMode mode);
[[nodiscard]] std::optional<ReplayMode> parse_replay_mode(std::string_view name);

}  // namespace kvtool::format
