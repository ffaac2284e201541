// Patterns of gate files.
#pragma once

#include <string_view>

namespace kvtool::analysis {

// '*' stands for any characters, '?' for one. Time is at most quadratic,
// whatever the pattern.
[[nodiscard]] bool matches_pattern(std::string_view pattern, std::string_view text);
// Without regard to the case of ASCII letters.
[[nodiscard]] bool matches_pattern_ignoring_case(std::string_view pattern, std::string_view text);

}  // namespace kvtool::analysis
