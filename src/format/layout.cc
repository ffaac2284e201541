#include "layout.h"

#include "kvtool/base/checked.h"

namespace kvtool::format {
namespace {

constexpr std::uint64_t kStatsFixedBytes = 40;
constexpr std::uint64_t kStatsChecksumBytes = 8;
constexpr std::uint64_t kTopEntryBytes = 8;

}  // namespace

std::optional<StateLayout> state_layout(const LayerGeometry& layer, std::uint64_t positions) {
  const auto key_bytes = checked_mul(layer.key_bytes(), positions);
  const auto value_bytes = checked_mul(layer.value_bytes(), positions);
  if (!key_bytes || !value_bytes || *key_bytes > kMaxSize / 4 || *value_bytes > kMaxSize / 4) {
    return std::nullopt;
  }
  StateLayout layout;
  layout.key_bytes = *key_bytes;
  layout.value_offset = align_up(*key_bytes, kRecordAlignment);
  layout.value_bytes = *value_bytes;
  layout.payload_bytes = layout.value_offset + *value_bytes;
  return layout;
}

std::uint64_t stats_block_bytes(const RecordingHeader& header) {
  const std::uint64_t sample = header.logits_sample * element_size(header.logits_dtype);
  return align_up(kStatsFixedBytes + kTopEntryBytes * header.top_k + sample + kStatsChecksumBytes,
                  kRecordAlignment);
}

std::uint64_t step_delta_bytes(const RecordingHeader& header) {
  return header.save_mode == SaveMode::kDelta ? header.geometry.delta_bytes() : 0;
}

std::uint64_t step_payload_bytes(const RecordingHeader& header) {
  return stats_block_bytes(header) + step_delta_bytes(header);
}

std::uint64_t record_bytes(std::uint64_t payload_bytes) {
  return align_up(kRecordHeaderBytes + payload_bytes, kRecordAlignment);
}

std::uint64_t step_stride_bytes(const RecordingHeader& header) {
  return record_bytes(step_payload_bytes(header));
}

}  // namespace kvtool::format
