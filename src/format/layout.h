// Sizes and offsets that follow from a header. Empty optionals mean that the
// size does not fit; sizes that are present stay below 2^62, so that adding a
// few of them or aligning them cannot overflow.
#pragma once

#include <cstdint>
#include <optional>

#include "kvtool/format/logit_sample.h"
#include "kvtool/format/recording.h"

namespace kvtool::format {

inline constexpr std::uint64_t kRecordAlignment = 64;
inline constexpr std::uint64_t kRecordHeaderBytes = 64;
inline constexpr std::uint64_t kMaxJsonBytes = 16u << 20;
inline constexpr std::uint64_t kMaxPromptTokens = 1u << 26;
inline constexpr std::uint64_t kMaxSteps = 1u << 26;
inline constexpr std::uint64_t kMaxSize = std::uint64_t{1} << 62;

// Payload of a PREFILL or FINAL record: K [heads, positions, key_dim], zeros up
// to a multiple of kRecordAlignment, V [heads, positions, value_dim].
struct StateLayout {
  std::uint64_t key_bytes = 0;
  std::uint64_t value_offset = 0;
  std::uint64_t value_bytes = 0;
  std::uint64_t payload_bytes = 0;
};
[[nodiscard]] std::optional<StateLayout> state_layout(const LayerGeometry& layer,
                                                      std::uint64_t positions);

// The statistics block of PREFILL_END and STEP.
[[nodiscard]] std::uint64_t stats_block_bytes(const RecordingHeader& header);
inline constexpr std::uint64_t kMaxStatsBlockBytes =
    40 + 8 * kMaxTopK + 4 * kMaxLogitsSample + kRecordAlignment;

// Bytes of K/V in a STEP: a delta in kDelta, none otherwise.
[[nodiscard]] std::uint64_t step_delta_bytes(const RecordingHeader& header);
[[nodiscard]] std::uint64_t step_payload_bytes(const RecordingHeader& header);

// A record with its header and the padding behind its payload, which is at most kMaxSize.
[[nodiscard]] std::uint64_t record_bytes(std::uint64_t payload_bytes);

// From the start of a STEP to the start of the next.
[[nodiscard]] std::uint64_t step_stride_bytes(const RecordingHeader& header);

}  // namespace kvtool::format
