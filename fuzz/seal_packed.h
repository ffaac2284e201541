// seal.h for what only packed files have. docs/format.md, "Packed files".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvtool::fuzz {

// The checksums of a PACKED payload's table, of its sections and, where they can be
// unpacked, of what they unpack to.
void seal_packed(std::span<std::byte> payload, std::uint64_t raw_bytes);

}  // namespace kvtool::fuzz
