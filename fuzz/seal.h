// Makes changed recordings look right again, so that what stands behind the
// checksums is reached. Works on bytes that may be anything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvtool::fuzz {

struct SealOptions {
  bool derived = true;     // lengths and offsets in the file header that follow from others
  bool places = true;      // offset and UUID of records
  bool sequence = true;    // sequence numbers of records
  bool statistics = true;  // the checksums inside of PREFILL_END and STEP
  bool trailer = true;     // counts and offsets in TRAILER
  bool packed = true;      // places, counts and checksums of PACKED and PACK_END
};

// Where records start, as far as their lengths can be followed; where one cannot,
// at the next cell that has the UUID of the file.
[[nodiscard]] std::vector<std::size_t> find_records(std::span<const std::byte> file);

// Recomputes what `options` name, then always every checksum of the file header and of
// records and their payloads.
void seal(std::span<std::byte> file, const SealOptions& options);

}  // namespace kvtool::fuzz
