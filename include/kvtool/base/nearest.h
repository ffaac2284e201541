// Suggestions for misspelt names.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace kvtool {

// Insertions, deletions, substitutions and swaps of neighbours that turn a into b.
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b);

// The candidate closest to `name`, compared without case; empty when none is
// close enough to be a likely misspelling.
[[nodiscard]] std::string nearest(std::string_view name, std::span<const std::string> candidates);

// "; did you mean 'x'?", or nothing.
[[nodiscard]] std::string suggestion(std::string_view name,
                                     std::span<const std::string> candidates);

}  // namespace kvtool
