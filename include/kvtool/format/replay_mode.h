// How a replay feeds the device under test.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace kvtool::format {

enum class ReplayMode : std::uint8_t {
  kInject,  // the reference's K/V and the reference's token at every step
  kForced,  // the device's own K/V, the reference's tokens
  kFree,    // the device's own K/V and its own tokens
};
// "inject", "forced", "free".
[[nodiscard]] std::string_view replay_mode_name(ReplayMode mode);
[[nodiscard]] std::optional<ReplayMode> parse_replay_mode(std::string_view name);

}  // namespace kvtool::format
