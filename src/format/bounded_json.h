// JSON from a file that may be hostile. docs/format.md, "Limits".
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace kvtool::format {

inline constexpr int kMaxJsonDepth = 16;
inline constexpr std::size_t kMaxJsonValues = 1u << 17;

// A JSON object within depth and value limits; else Error kCorrupt that says
// what is wrong, without naming a file.
[[nodiscard]] nlohmann::json parse_json_object(std::string_view text);

// One line; invalid UTF-8 (advisory text may be cut inside a character) becomes U+FFFD.
// Error kUsage for what parse_json_object() would refuse or when it is too long for a record.
[[nodiscard]] std::string dump_json_object(const nlohmann::json& value);

}  // namespace kvtool::format
