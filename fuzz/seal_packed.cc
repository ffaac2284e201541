#include "seal_packed.h"

#include <optional>
#include <vector>

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/packed/packed_block.h"

namespace kvtool::fuzz {
namespace {

using namespace kvtool::format;

// More is not worth the time.
constexpr std::uint64_t kMostBytes = 1u << 20;

std::optional<std::uint64_t> unpacked_checksum(std::span<const std::byte> entry,
                                               std::span<const std::byte> stream,
                                               std::uint32_t rows) {
  const auto width = load<std::uint32_t>(entry, 4);
  const std::uint64_t bytes = std::uint64_t{load<std::uint32_t>(entry, 0)} * rows;
  if ((width != 1 && width != 2 && width != 4) || bytes > kMostBytes || bytes % width != 0) {
    return std::nullopt;
  }
  const std::uint64_t plane = bytes / width;
  std::vector<std::byte> planes(bytes);
  PlaneDecompressor decompressor;
  for (std::uint32_t i = 0; i < width; ++i) {
    const auto stored = load<std::uint32_t>(entry, 8 + 4 * i);
    const auto target = std::span(planes).subspan(i * plane, plane);
    const auto part = stream.subspan(0, stored);
    stream = stream.subspan(stored);
    if (stored == plane) {
      copy_bytes(part, target);
    } else if (!decompressor.decompress(part, target)) {
      return std::nullopt;
    }
  }
  std::vector<std::byte> elements(bytes);
  merge_planes(planes, width, elements);
  return checksum(elements);
}

}  // namespace

void seal_packed(std::span<std::byte> payload, std::uint64_t raw_bytes) {
  if (payload.size() < kBlockHeadBytes) return;
  const auto table_bytes = block_table_bytes(payload, payload.size());
  if (!table_bytes) return;
  const auto rows = load<std::uint32_t>(payload, 0);
  std::uint64_t at = *table_bytes;
  for (std::uint64_t i = kBlockHeadBytes; i < *table_bytes; i += kSectionEntryBytes) {
    const auto entry = payload.subspan(i, kSectionEntryBytes);
    std::uint64_t bytes = 0;
    for (std::size_t plane = 0; plane < kMaxElementBytes; ++plane) {
      bytes += load<std::uint32_t>(entry, 8 + 4 * plane);
    }
    if (bytes > payload.size() - at) break;
    const auto stream = payload.subspan(at, bytes);
    store(entry, 24, checksum(stream));
    if (raw_bytes <= kMostBytes) {
      if (const auto sum = unpacked_checksum(entry, stream, rows)) store(entry, 32, *sum);
    }
    at += bytes;
  }
  StreamingChecksum sum;
  sum.update(payload.subspan(0, 8));
  sum.update(payload.subspan(kBlockHeadBytes, *table_bytes - kBlockHeadBytes));
  store(payload, 8, sum.digest());
}

}  // namespace kvtool::fuzz
