// Little-endian fields inside byte buffers, and zeros between them.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <span>

namespace kvtool::format {

// The format is little-endian and K/V rows are copied as they are.
static_assert(std::endian::native == std::endian::little, "kvtool needs a little-endian machine");

template <typename T>
[[nodiscard]] T load(std::span<const std::byte> from, std::size_t offset) {
  T value;
  std::memcpy(&value, from.subspan(offset, sizeof(T)).data(), sizeof(T));
  return value;
}

template <typename T>
void store(std::span<std::byte> to, std::size_t offset, T value) {
  std::memcpy(to.subspan(offset, sizeof(T)).data(), &value, sizeof(T));
}

[[nodiscard]] inline bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

// memcpy that accepts empty spans, whose data() may be null.
inline void copy_bytes(std::span<const std::byte> from, std::span<std::byte> to) {
  if (!from.empty()) std::memcpy(to.subspan(0, from.size()).data(), from.data(), from.size());
}

}  // namespace kvtool::format
