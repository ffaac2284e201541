// Record headers, the statistics block and the trailer as bytes.
// docs/format.md, "Records".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "format/layout.h"
#include "kvtool/format/recording.h"

namespace kvtool::format {

enum class RecordType : std::uint16_t {
  kMeta = 1,
  kPrompt = 2,
  kPrefill = 3,
  kPrefillEnd = 4,
  kStep = 5,
  kFinal = 6,
  kSummary = 7,
  kTrailer = 8,
  kChecksums = 9,
};

struct RecordHeader {
  RecordType type = RecordType::kMeta;  // any value: later versions add types
  std::uint8_t codec = 0;               // 0: payload stored as it is
  std::uint8_t flags = 0;
  std::uint32_t sequence = 0;  // records before this one
  std::uint64_t index = 0;     // STEP: step; PREFILL and FINAL: layer; else 0
  std::uint64_t offset = 0;    // of this header in the file
  std::uint64_t stored_bytes = 0;
  std::uint64_t raw_bytes = 0;
  std::uint64_t uuid_low = 0;
  std::uint64_t payload_checksum = 0;
};

// The payload that a record of this type and index must have in a recording of
// `num_steps` steps; empty where any length is right. The layer of a state exists.
[[nodiscard]] std::optional<std::uint64_t> expected_payload_bytes(const RecordingHeader& header,
                                                                  const RecordHeader& record,
                                                                  std::uint64_t num_steps);

// Little-endian number in the last eight bytes of the UUID.
[[nodiscard]] std::uint64_t uuid_low_half(const Uuid& uuid);

// "STEP 12", "PREFILL of layer 3", "META", "record of unknown type 77".
[[nodiscard]] std::string describe_record(const RecordHeader& header);

// target has kRecordHeaderBytes.
void encode_record_header(const RecordHeader& header, std::span<std::byte> target);
// Empty when the header's own checksum is wrong. Nothing else is checked.
[[nodiscard]] std::optional<RecordHeader> decode_record_header(std::span<const std::byte> source);

// target has stats_block_bytes(header); all of it is written.
void encode_stats(const RecordingHeader& header, const StepStats& stats,
                  std::span<std::byte> target);
// What is wrong with stats of this recording, in words; empty when nothing is.
[[nodiscard]] std::string stats_problem(const RecordingHeader& header, const StepStats& stats,
                                        bool is_prefill);
// As above, of the block as it stands in the file.
[[nodiscard]] std::string stats_block_problem(const RecordingHeader& header,
                                              std::span<const std::byte> block, bool is_prefill);
// Empty when the block's own checksum or top-k is wrong. Token ids are not checked.
[[nodiscard]] std::optional<StepStats> decode_stats(const RecordingHeader& header,
                                                    std::span<const std::byte> source);

inline constexpr std::uint64_t kTrailerPayloadBytes = 64;
inline constexpr std::uint64_t kTrailerBytes = kRecordHeaderBytes + kTrailerPayloadBytes;

// Offsets are 0 where there is no such record.
struct Trailer {
  std::uint64_t file_bytes = 0;
  std::uint64_t num_records = 0;  // with the trailer
  std::uint64_t num_steps = 0;
  std::uint64_t first_prefill = 0;
  std::uint64_t prefill_end = 0;
  std::uint64_t first_step = 0;
  std::uint64_t first_final = 0;
  std::uint64_t summary = 0;

  friend bool operator==(const Trailer&, const Trailer&) = default;
};

// target and source have kTrailerPayloadBytes.
void encode_trailer(const Trailer& trailer, std::span<std::byte> target);
[[nodiscard]] Trailer decode_trailer(std::span<const std::byte> source);

}  // namespace kvtool::format
