// The cache policies that there are, without torch: what help texts, documentation, the
// memory plan and tests iterate. The engine has the maker of each beside its code
// (src/engine/cache/policies.cc) and does not compile where the two lists differ.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace kvtool::cache {

enum class OptionKind : std::uint8_t {
  kCount,  // "16"
  kBytes,  // "256M": K, M, G and T are powers of 1024
  kShare,  // "80%", 0 to 100
  kWord,   // one of `words`
};

// One `key=value` that a policy takes.
struct OptionInfo {
  std::string_view name;
  OptionKind kind = OptionKind::kCount;
  std::string_view summary;
  std::string_view fallback;  // the value where none is given; empty: the option is then left out
  std::span<const std::string_view> words = {};
};

// How a policy keeps the row of one K/V head and position.
struct RowStorage {
  std::uint32_t element_bits = 0;  // 0: as the model made it
  std::uint32_t scale_bytes = 0;   // beside the elements
};

struct PolicyInfo {
  std::string_view name;
  std::string_view summary;
  RowStorage storage;
  std::span<const OptionInfo> options = {};
};

inline constexpr std::array kPolicies = {
    PolicyInfo{"contiguous", "rows as the model made them, one buffer a layer", {}},
    PolicyInfo{"int8", "rows as 8-bit integers, one scale per position, K/V head, K and V", {8, 4}},
};

[[nodiscard]] constexpr std::span<const PolicyInfo> policies() { return kPolicies; }

}  // namespace kvtool::cache
