#include "record_codec.h"

#include "format/bytes.h"
#include "format/checksum.h"

namespace kvtool::format {
namespace {

constexpr std::size_t kHeaderChecksumAt = kRecordHeaderBytes - 8;
constexpr std::size_t kTopIdsAt = 40;

std::string token_problem(const RecordingHeader& header, const char* what, std::int32_t token) {
  if (token >= 0 && static_cast<std::uint32_t>(token) < header.vocab_size) return "";
  return std::string(what) + " " + std::to_string(token) + " is outside the vocabulary of " +
         std::to_string(header.vocab_size);
}

}  // namespace

std::uint64_t uuid_low_half(const Uuid& uuid) {
  return load<std::uint64_t>(std::as_bytes(std::span(uuid)), 8);
}

std::optional<std::uint64_t> expected_payload_bytes(const RecordingHeader& header,
                                                    const RecordHeader& record,
                                                    std::uint64_t num_steps) {
  const auto state = [&](std::uint64_t positions) {
    const auto layout = state_layout(header.geometry.layer(record.index), positions);
    return layout ? layout->payload_bytes : kMaxSize;
  };
  switch (record.type) {
    case RecordType::kPrompt: return 4 * header.prompt_length;
    case RecordType::kPrefill: return state(header.prompt_length);
    case RecordType::kPrefillEnd: return stats_block_bytes(header);
    case RecordType::kStep: return step_payload_bytes(header);
    case RecordType::kFinal: return state(header.prompt_length + num_steps);
    case RecordType::kTrailer: return kTrailerPayloadBytes;
    default: return std::nullopt;
  }
}

std::string describe_record(const RecordHeader& header) {
  switch (header.type) {
    case RecordType::kMeta: return "META";
    case RecordType::kPrompt: return "PROMPT";
    case RecordType::kPrefill: return "PREFILL of layer " + std::to_string(header.index);
    case RecordType::kPrefillEnd: return "PREFILL_END";
    case RecordType::kStep: return "STEP " + std::to_string(header.index);
    case RecordType::kFinal: return "FINAL of layer " + std::to_string(header.index);
    case RecordType::kSummary: return "SUMMARY";
    case RecordType::kTrailer: return "TRAILER";
    case RecordType::kChecksums: return "CHECKSUMS";
  }
  return "record of unknown type " + std::to_string(static_cast<unsigned>(header.type));
}

void encode_record_header(const RecordHeader& header, std::span<std::byte> target) {
  store(target, 0, static_cast<std::uint16_t>(header.type));
  store(target, 2, header.codec);
  store(target, 3, header.flags);
  store(target, 4, header.sequence);
  store(target, 8, header.index);
  store(target, 16, header.offset);
  store(target, 24, header.stored_bytes);
  store(target, 32, header.raw_bytes);
  store(target, 40, header.uuid_low);
  store(target, 48, header.payload_checksum);
  store(target, kHeaderChecksumAt, checksum(target.subspan(0, kHeaderChecksumAt)));
}

std::optional<RecordHeader> decode_record_header(std::span<const std::byte> source) {
  if (load<std::uint64_t>(source, kHeaderChecksumAt) !=
      checksum(source.subspan(0, kHeaderChecksumAt))) {
    return std::nullopt;
  }
  RecordHeader header;
  header.type = static_cast<RecordType>(load<std::uint16_t>(source, 0));
  header.codec = load<std::uint8_t>(source, 2);
  header.flags = load<std::uint8_t>(source, 3);
  header.sequence = load<std::uint32_t>(source, 4);
  header.index = load<std::uint64_t>(source, 8);
  header.offset = load<std::uint64_t>(source, 16);
  header.stored_bytes = load<std::uint64_t>(source, 24);
  header.raw_bytes = load<std::uint64_t>(source, 32);
  header.uuid_low = load<std::uint64_t>(source, 40);
  header.payload_checksum = load<std::uint64_t>(source, 48);
  return header;
}

void encode_stats(const RecordingHeader& header, const StepStats& stats,
                  std::span<std::byte> target) {
  const std::size_t top_k = stats.top_ids.size();
  store(target, 0, stats.input_token);
  store(target, 4, stats.token);
  store(target, 8, stats.elapsed_ns);
  store(target, 16, stats.logsumexp);
  store(target, 24, stats.logits_digest);
  store(target, 32, static_cast<std::uint32_t>(top_k));
  store(target, 36, std::uint32_t{0});
  copy_bytes(std::as_bytes(std::span(stats.top_ids)), target.subspan(kTopIdsAt));
  copy_bytes(std::as_bytes(std::span(stats.top_logits)), target.subspan(kTopIdsAt + 4 * top_k));
  const std::size_t checksum_at = target.size() - 8;
  const std::size_t sample_at = kTopIdsAt + 8 * top_k;
  const std::size_t sample_bytes = stats.sampled_logits.size() * element_size(header.logits_dtype);
  encode_from_float(header.logits_dtype, stats.sampled_logits,
                    target.subspan(sample_at, sample_bytes));
  for (std::size_t i = sample_at + sample_bytes; i < checksum_at; ++i) target[i] = std::byte{0};
  store(target, checksum_at, checksum(target.subspan(0, checksum_at)));
}

std::string stats_problem(const RecordingHeader& header, const StepStats& stats, bool is_prefill) {
  if (stats.top_ids.size() != header.top_k || stats.top_logits.size() != header.top_k) {
    return "top-k has " + std::to_string(stats.top_ids.size()) + " ids and " +
           std::to_string(stats.top_logits.size()) + " logits, the header says " +
           std::to_string(header.top_k);
  }
  if (stats.sampled_logits.size() != header.logits_sample) {
    return "a sample of " + std::to_string(stats.sampled_logits.size()) +
           " logits, the header says " + std::to_string(header.logits_sample);
  }
  std::string problem;
  if (is_prefill) {
    if (stats.input_token != -1) {
      return "input token " + std::to_string(stats.input_token) + ", the prefill has -1";
    }
  } else if (problem = token_problem(header, "input token", stats.input_token); !problem.empty()) {
    return problem;
  }
  // -1: logits without a finite choice, which a device under test may well yield.
  if (problem = token_problem(header, "token", stats.token);
      stats.token != -1 && !problem.empty()) {
    return problem;
  }
  for (const std::int32_t id : stats.top_ids) {
    if (problem = token_problem(header, "top-k token", id); !problem.empty()) return problem;
  }
  return "";
}

std::string stats_block_problem(const RecordingHeader& header, std::span<const std::byte> block,
                                bool is_prefill) {
  const auto stats = decode_stats(header, block);
  return stats ? stats_problem(header, *stats, is_prefill)
               : "the statistics' checksum or top-k is wrong";
}

std::optional<StepStats> decode_stats(const RecordingHeader& header,
                                      std::span<const std::byte> source) {
  const std::size_t checksum_at = source.size() - 8;
  if (load<std::uint64_t>(source, checksum_at) != checksum(source.subspan(0, checksum_at)) ||
      load<std::uint32_t>(source, 32) != header.top_k) {
    return std::nullopt;
  }
  StepStats stats;
  stats.input_token = load<std::int32_t>(source, 0);
  stats.token = load<std::int32_t>(source, 4);
  stats.elapsed_ns = load<std::int64_t>(source, 8);
  stats.logsumexp = load<double>(source, 16);
  stats.logits_digest = load<std::uint64_t>(source, 24);
  stats.top_ids.resize(header.top_k);
  stats.top_logits.resize(header.top_k);
  const std::size_t column_bytes = std::size_t{4} * header.top_k;
  copy_bytes(source.subspan(kTopIdsAt, column_bytes),
             std::as_writable_bytes(std::span(stats.top_ids)));
  copy_bytes(source.subspan(kTopIdsAt + column_bytes, column_bytes),
             std::as_writable_bytes(std::span(stats.top_logits)));
  stats.sampled_logits.resize(header.logits_sample);
  decode_to_float(header.logits_dtype,
                  source.subspan(kTopIdsAt + 2 * column_bytes,
                                 header.logits_sample * element_size(header.logits_dtype)),
                  stats.sampled_logits);
  return stats;
}

void encode_trailer(const Trailer& trailer, std::span<std::byte> target) {
  store(target, 0, trailer.file_bytes);
  store(target, 8, trailer.num_records);
  store(target, 16, trailer.num_steps);
  store(target, 24, trailer.first_prefill);
  store(target, 32, trailer.prefill_end);
  store(target, 40, trailer.first_step);
  store(target, 48, trailer.first_final);
  store(target, 56, trailer.summary);
}

Trailer decode_trailer(std::span<const std::byte> source) {
  Trailer trailer;
  trailer.file_bytes = load<std::uint64_t>(source, 0);
  trailer.num_records = load<std::uint64_t>(source, 8);
  trailer.num_steps = load<std::uint64_t>(source, 16);
  trailer.first_prefill = load<std::uint64_t>(source, 24);
  trailer.prefill_end = load<std::uint64_t>(source, 32);
  trailer.first_step = load<std::uint64_t>(source, 40);
  trailer.first_final = load<std::uint64_t>(source, 48);
  trailer.summary = load<std::uint64_t>(source, 56);
  return trailer;
}

}  // namespace kvtool::format
