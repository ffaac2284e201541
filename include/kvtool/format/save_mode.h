// What of the K/V a recording keeps: the modes that there are, which options, help texts,
// documentation and tests iterate.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace kvtool::format {

// The values are those of the file format.
enum class SaveMode : std::uint8_t {
  kDelta = 1,        // prompt K/V, then the rows of every step
  kPrefillOnly = 2,  // prompt K/V; steps carry tokens and statistics only
  kFinalOnly = 3,    // steps carry tokens and statistics; one K/V state at the end
};

struct SaveModeInfo {
  SaveMode mode;
  std::string_view name;
  std::string_view summary;  // what is kept
};
// The default first.
inline constexpr std::array kSaveModes = {
    SaveModeInfo{SaveMode::kDelta, "delta", "K/V of the prompt and of every step"},
    SaveModeInfo{SaveMode::kPrefillOnly, "prefill_only", "K/V of the prompt"},
    SaveModeInfo{SaveMode::kFinalOnly, "final_only", "one K/V state at the end"},
};

[[nodiscard]] std::string_view save_mode_name(SaveMode mode);
[[nodiscard]] std::optional<SaveMode> parse_save_mode(std::string_view name);

}  // namespace kvtool::format
