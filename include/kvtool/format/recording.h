// What a recording consists of besides K and V. See docs/format.md for bytes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/format/geometry.h"
#include "kvtool/format/save_mode.h"

namespace kvtool::format {

using Uuid = std::array<std::uint8_t, 16>;
using Sha256 = std::array<std::uint8_t, 32>;

[[nodiscard]] Uuid random_uuid();
// "xxxxxxxx-xxxx-…", lower case.
[[nodiscard]] std::string to_string(const Uuid& uuid);
[[nodiscard]] std::string to_hex(const Sha256& digest);
// Empty unless `hex` is exactly 64 hex digits.
[[nodiscard]] std::optional<Sha256> parse_sha256(std::string_view hex);

// Fixed for the whole file, written first.
struct RecordingHeader {
  Uuid uuid{};
  Sha256 model_sha256{};
  SaveMode save_mode = SaveMode::kDelta;
  DType logits_dtype = DType::kFloat32;  // dtype of the model's head output
  std::uint32_t vocab_size = 0;
  std::uint32_t top_k = 0;  // entries per step; at most kMaxTopK and vocab_size
  std::uint64_t prompt_length = 0;
  Geometry geometry;
  // Logits per step that are recorded beside the top-k, at the ids of format/logit_sample.h;
  // at most kMaxLogitsSample and vocab_size.
  std::uint32_t logits_sample = 0;
};

// What one forward pass said about the next token.
struct StepStats {
  std::int32_t input_token = -1;  // -1 for the prefill
  // The greedy choice: lowest id among the maximal logits; -1 when they hold NaN or +Inf.
  std::int32_t token = -1;
  std::int64_t elapsed_ns = 0;
  // log(sum(exp(logits))) of the full row.
  double logsumexp = 0.0;
  // Checksum of every logit's bit pattern, 0 when absent: sum over i of
  // bits(logit_i) * (i-th splitmix64 output | 1) modulo 2^64, in the head's own dtype.
  // Order-free integer arithmetic, so that every device computes the same.
  std::uint64_t logits_digest = 0;
  // header.top_k entries, by logit descending, then id ascending.
  std::vector<std::int32_t> top_ids;
  std::vector<float> top_logits;
  // header.logits_sample entries by id, in the head's own dtype: others would be rounded to it.
  std::vector<float> sampled_logits = {};
  // Of a replay, never recorded: this side's logits at the reference's top_ids of the same token,
  // in their order.
  std::vector<float> at_reference_top = {};

  friend bool operator==(const StepStats&, const StepStats&) = default;
};

}  // namespace kvtool::format
