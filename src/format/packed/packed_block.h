// The payload of a PACKED record: a piece of the original file as a matrix of
// rows, cut into sections of columns. docs/format.md, "Packed files".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "format/records/record_codec.h"
#include "plane_codec.h"

namespace kvtool::format {

// Not in RecordType: they stand only in packed files, which no walk over records sees.
inline constexpr auto kPackedRecord = static_cast<RecordType>(16);
inline constexpr auto kPackEndRecord = static_cast<RecordType>(17);
inline constexpr std::uint8_t kPlaneCodec = 1;

inline constexpr std::uint64_t kMaxBlockBytes = 8u << 20;
inline constexpr std::uint64_t kMaxExpansion = 256;
inline constexpr std::uint32_t kMaxSections = 16384;
inline constexpr std::size_t kMaxElementBytes = 4;
inline constexpr std::uint64_t kBlockHeadBytes = 16;
inline constexpr std::uint64_t kSectionEntryBytes = 40;

// Neighbouring columns of one element type.
struct SectionShape {
  std::uint32_t row_bytes = 0;  // a multiple of width
  std::uint32_t width = 1;      // bytes per element: 1, 2 or 4
  bool compressed = true;       // false: stored as it is without a try
};

struct PackedSection {
  SectionShape shape;
  std::array<std::uint32_t, kMaxElementBytes> plane_bytes{};  // as stored
  std::uint64_t stored_checksum = 0;
  std::uint64_t raw_checksum = 0;
  // Derived: place in a row and in the payload.
  std::uint64_t column = 0;
  std::uint64_t stream = 0;
  std::uint64_t stream_bytes = 0;
};

struct BlockTable {
  std::uint32_t rows = 0;
  std::uint64_t row_bytes = 0;
  std::vector<PackedSection> sections;
};

// Payload lengths that a block of `raw_bytes` may have: the upper bound is that of a
// block stored as it is; the lower one keeps a small file from unpacking to a huge one.
[[nodiscard]] bool is_possible_block(std::uint64_t raw_bytes, std::uint64_t stored_bytes);

// How many bytes of the payload the table takes, from its first kBlockHeadBytes.
// Empty when it is impossible in a payload of stored_bytes.
[[nodiscard]] std::optional<std::uint64_t> block_table_bytes(std::span<const std::byte> head,
                                                             std::uint64_t stored_bytes);
// What is wrong with the table, in words, else empty and the table in `target`.
[[nodiscard]] std::string decode_block_table(std::span<const std::byte> bytes,
                                             std::uint64_t raw_bytes, std::uint64_t stored_bytes,
                                             BlockTable& target);

// Reuses its buffers. Not thread-safe.
class BlockEncoder {
 public:
  // raw: rows of equal length, cut at the shapes' borders. The payload is valid
  // until the next call.
  [[nodiscard]] std::span<const std::byte> encode(std::span<const std::byte> raw,
                                                  std::uint32_t rows,
                                                  std::span<const SectionShape> shapes);

 private:
  PackedSection append_section(std::span<const std::byte> raw, const BlockTable& table,
                               std::uint64_t column, const SectionShape& shape);

  PlaneCompressor compressor_;
  std::vector<std::byte> column_;
  std::vector<std::byte> planes_;
  std::vector<std::byte> payload_;  // grows only; the first payload_bytes_ are in use
  std::size_t payload_bytes_ = 0;
};

// Reuses its buffers. Not thread-safe.
class SectionDecoder {
 public:
  // Room of section.stream_bytes for callers that read the stream before decode().
  [[nodiscard]] std::span<std::byte> room(const PackedSection& section);
  // Puts the section whose stream is `stored` into its columns of `raw`, the whole
  // block. What is wrong, in words; empty when nothing is.
  [[nodiscard]] std::string decode(const BlockTable& table, const PackedSection& section,
                                   std::span<const std::byte> stored, std::span<std::byte> raw);

 private:
  PlaneDecompressor decompressor_;
  std::vector<std::byte> room_;
  std::vector<std::byte> planes_;
  std::vector<std::byte> column_;
};

// A payload that lies in memory into `raw`, which has the block's length. What is
// wrong, in words; empty when nothing is.
[[nodiscard]] std::string decode_block(std::span<const std::byte> payload, SectionDecoder& decoder,
                                       std::span<std::byte> raw);

}  // namespace kvtool::format
