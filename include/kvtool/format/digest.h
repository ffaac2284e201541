// A digest of text that people and other programs compare: XXH3-128 with seed 0. It tells texts
// apart; it is no protection against somebody who makes two of the same digest.
#pragma once

#include <string>
#include <string_view>

namespace kvtool::format {

// 32 hex digits in the order that xxhsum -H2 and Python's xxhash print.
[[nodiscard]] std::string text_digest(std::string_view text);

}  // namespace kvtool::format
