#include "seal.h"

#include <algorithm>
#include <optional>

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/layout.h"
#include "format/packed/packed_block.h"
#include "format/packed/packed_file.h"
#include "format/records/header_codec.h"
#include "format/records/record_codec.h"
#include "kvtool/base/error.h"
#include "seal_packed.h"

namespace kvtool::fuzz {
namespace {

using namespace kvtool::format;

// Field offsets, docs/format.md.
constexpr std::size_t kHeaderBytesAt = 12;
constexpr std::size_t kUuidLowAt = 40;
constexpr std::size_t kLogitsDTypeAt = 81;
constexpr std::size_t kTopKAt = 88;
constexpr std::size_t kLayersAt = 92;
constexpr std::size_t kDeltaBytesAt = 104;
constexpr std::size_t kStatsBytesAt = 120;
constexpr std::size_t kFixedBytes = 128;
constexpr std::size_t kEntryBytes = 32;

std::size_t header_bytes(std::span<const std::byte> file) {
  if (file.size() < kFixedBytes) return 0;
  const std::size_t bytes = load<std::uint32_t>(file, kHeaderBytesAt);
  return bytes >= kFixedBytes && bytes <= file.size() && bytes % kRecordAlignment == 0 ? bytes : 0;
}

bool has_extension(std::span<const std::byte> header) {
  return (load<std::uint64_t>(header, 16) & kExtendedFeature) != 0;
}

std::size_t extension_at(std::span<const std::byte> header) {
  return kFixedBytes + load<std::uint32_t>(header, kLayersAt) * kEntryBytes;
}

// The layers, where they are possible at all.
std::optional<Geometry> geometry_of(std::span<const std::byte> header) {
  const std::size_t count = load<std::uint32_t>(header, kLayersAt);
  const std::size_t extension =
      has_extension(header) ? kExtensionFixedBytes + count * kExtensionEntryBytes : 0;
  if (count < 1 || extension_at(header) + extension + 8 > header.size()) return std::nullopt;
  try {
    return Geometry(decode_layers(header));
  } catch (const Error&) {
    return std::nullopt;
  }
}

void derive(std::span<std::byte> header) {
  const auto geometry = geometry_of(header);
  if (!geometry) return;
  RecordingHeader fields;
  fields.save_mode = static_cast<SaveMode>(load<std::uint8_t>(header, 80));
  fields.top_k = std::min(load<std::uint32_t>(header, kTopKAt), kMaxTopK);
  fields.geometry = *geometry;
  if (has_extension(header)) {
    fields.logits_sample =
        std::min(load<std::uint32_t>(header, extension_at(header)), kMaxLogitsSample);
  }
  const auto logits_dtype = load<std::uint8_t>(header, kLogitsDTypeAt);
  if (is_known_dtype(logits_dtype)) fields.logits_dtype = static_cast<DType>(logits_dtype);
  store(header, kDeltaBytesAt, geometry->delta_bytes());
  store(header, kDeltaBytesAt + 8, step_stride_bytes(fields));
  store(header, kDeltaBytesAt + 16, stats_block_bytes(fields));
  for (std::size_t i = 0; i < geometry->num_layers(); ++i) {
    const auto entry = header.subspan(kFixedBytes + i * kEntryBytes, kEntryBytes);
    store(entry, 16, geometry->row_offset(i).key);
    store(entry, 24, geometry->row_offset(i).value);
  }
}

void seal_statistics(std::span<std::byte> payload, std::uint32_t top_k, std::uint64_t bytes) {
  if (bytes < kRecordAlignment || payload.size() < bytes) return;
  store(payload, 32, std::uint64_t{top_k});
  store(payload, bytes - 8, checksum(payload.subspan(0, bytes - 8)));
}

RecordType type_at(std::span<const std::byte> file, std::size_t at) {
  return static_cast<RecordType>(load<std::uint16_t>(file, at));
}

Trailer count(std::span<const std::byte> file, const std::vector<std::size_t>& records) {
  Trailer found;
  found.file_bytes = file.size();
  found.num_records = records.size();
  const auto first = [](std::uint64_t& field, std::size_t at) {
    if (field == 0) field = at;
  };
  for (const std::size_t at : records) {
    switch (type_at(file, at)) {
      case RecordType::kPrefill: first(found.first_prefill, at); break;
      case RecordType::kPrefillEnd: first(found.prefill_end, at); break;
      case RecordType::kStep: first(found.first_step, at), ++found.num_steps; break;
      case RecordType::kFinal: first(found.first_final, at); break;
      case RecordType::kSummary: first(found.summary, at); break;
      default: break;
    }
  }
  return found;
}

// The parts of a packed file, in their order.
class PackedParts {
 public:
  explicit PackedParts(std::uint64_t front_bytes) : next_(front_bytes) {}

  void seal(std::span<std::byte> record, std::span<std::byte> payload) {
    const auto type = load<std::uint16_t>(record, 0);
    if (type == static_cast<std::uint16_t>(kPackedRecord)) {
      const auto raw_bytes = load<std::uint64_t>(record, 32);
      store(record, 8, next_);
      next_ += raw_bytes;
      ++blocks_;
      seal_packed(payload, raw_bytes);
    }
    if (type == static_cast<std::uint16_t>(kPackEndRecord) &&
        payload.size() == kPackEndPayloadBytes) {
      const auto sum = load<std::uint64_t>(payload, 8);
      encode_pack_end({next_, sum, blocks_}, payload);
    }
  }

 private:
  std::uint64_t next_;  // byte of the original
  std::uint64_t blocks_ = 0;
};

}  // namespace

std::vector<std::size_t> find_records(std::span<const std::byte> file) {
  std::vector<std::size_t> records;
  const std::size_t start = header_bytes(file);
  if (start == 0) return records;
  const auto uuid = load<std::uint64_t>(file, kUuidLowAt);
  for (std::size_t at = start; at + kRecordHeaderBytes <= file.size();) {
    const auto stored = load<std::uint64_t>(file, at + 24);
    const std::size_t rest = file.size() - at;
    if (stored <= rest && record_bytes(stored) <= rest) {
      records.push_back(at);
      at += record_bytes(stored);
      continue;
    }
    if (load<std::uint64_t>(file, at + 40) == uuid) records.push_back(at);
    at += kRecordAlignment;
  }
  return records;
}

void seal(std::span<std::byte> file, const SealOptions& options) {
  const std::size_t front = header_bytes(file);
  if (front == 0) return;
  const auto header = file.subspan(0, front);
  if (options.derived) derive(header);
  store(header, front - 8, checksum(header.subspan(0, front - 8)));
  const std::uint32_t top_k = std::min(load<std::uint32_t>(header, kTopKAt), kMaxTopK);
  const auto stats_bytes = load<std::uint64_t>(header, kStatsBytesAt);
  const auto uuid = load<std::uint64_t>(header, kUuidLowAt);
  const std::vector<std::size_t> records = find_records(file);
  const bool is_packed = (load<std::uint64_t>(header, 16) & kPackedFeature) != 0;
  PackedParts parts(records.size() > 2 ? records[2] : 0);
  for (std::size_t i = 0; i < records.size(); ++i) {
    const std::size_t at = records[i];
    const auto record = file.subspan(at, kRecordHeaderBytes);
    const RecordType type = type_at(file, at);
    if (options.sequence) store(record, 4, static_cast<std::uint32_t>(i));
    if (options.places) {
      store(record, 16, std::uint64_t{at});
      store(record, 40, uuid);
    }
    const auto stored = load<std::uint64_t>(record, 24);
    if (stored <= file.size() - at - kRecordHeaderBytes) {
      const auto payload = file.subspan(at + kRecordHeaderBytes, stored);
      const bool statistics = type == RecordType::kPrefillEnd || type == RecordType::kStep;
      if (options.statistics && statistics) seal_statistics(payload, top_k, stats_bytes);
      if (options.trailer && type == RecordType::kTrailer && stored == kTrailerPayloadBytes) {
        encode_trailer(count(file, records), payload);
      }
      if (is_packed && options.packed) parts.seal(record, payload);
      store(record, 48, checksum(payload));
    }
    store(record, 56, checksum(record.subspan(0, 56)));
  }
}

}  // namespace kvtool::fuzz
