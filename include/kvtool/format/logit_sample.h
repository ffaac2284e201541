// Which logits a recording holds beside the top-k. docs/format.md, "Sample of logits".
#pragma once

#include <cstdint>
#include <vector>

namespace kvtool::format {

inline constexpr std::uint32_t kMaxLogitsSample = 1024;

// Ascending and all different: one id out of each of `size` parts of the vocabulary of equal
// length, other ones at every token. `token` counts from 0: 0 is what the prefill yields,
// s + 1 what step s yields. 1 <= size <= vocab_size; no ids for a size of 0.
[[nodiscard]] std::vector<std::int32_t> sampled_ids(std::uint32_t vocab_size, std::uint32_t size,
                                                    std::uint64_t token);

}  // namespace kvtool::format
