// Recordings put together record by record with right checksums and wrong
// content: what only a hostile or a future writer produces.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/records/checksums_record.h"
#include "format/records/header_codec.h"
#include "format/records/record_codec.h"
#include "sample.h"

namespace kvtool::format {

class RawRecording {
 public:
  using Tweak = std::function<void(RecordHeader&)>;

  explicit RawRecording(const RecordingHeader& header) : header_(header) {
    bytes = encode_header(header);
  }

  // Changes a field of the file header and repairs its checksum. Before any record.
  template <typename T>
  RawRecording& patch_header(std::size_t at, T value) {
    store(std::span(bytes), at, value);
    seal_header();
    return *this;
  }

  // Inserts zeros behind the layer table, as a later minor version may do.
  RawRecording& grow_header(std::size_t extra, std::uint16_t minor) {
    bytes.resize(bytes.size() + extra, std::byte{0x77});
    store(std::span(bytes), 10, minor);
    store(std::span(bytes), 12, static_cast<std::uint32_t>(bytes.size()));
    seal_header();
    return *this;
  }

  RawRecording& record(RecordType type, std::uint64_t index, std::span<const std::byte> payload,
                       const Tweak& tweak = {}) {
    note(type);
    RecordHeader record;
    record.type = type;
    record.sequence = sequence_++;
    record.index = index;
    record.offset = bytes.size();
    record.stored_bytes = payload.size();
    record.raw_bytes = payload.size();
    record.uuid_low = uuid_low_half(header_.uuid);
    record.payload_checksum = checksum(payload);
    if (tweak) tweak(record);
    bytes.resize(bytes.size() + kRecordHeaderBytes);
    encode_record_header(record, std::span(bytes).last(kRecordHeaderBytes));
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    bytes.resize(align_to_record(bytes.size()));
    return *this;
  }

  RawRecording& text(RecordType type, std::string_view json, const Tweak& tweak = {}) {
    return record(type, 0, std::as_bytes(std::span(json)), tweak);
  }

  RawRecording& meta() { return text(RecordType::kMeta, sample_meta().dump()); }

  RawRecording& prompt(std::vector<std::int32_t> tokens) {
    return record(RecordType::kPrompt, 0, std::as_bytes(std::span(tokens)));
  }
  RawRecording& prompt() { return prompt(sample_prompt(header_)); }

  RawRecording& state(RecordType type, std::uint32_t layer, std::uint64_t positions) {
    Bytes payload = sample_key(header_.geometry, layer, positions);
    payload.resize(align_to_record(payload.size()));
    const Bytes value = sample_value(header_.geometry, layer, positions);
    payload.insert(payload.end(), value.begin(), value.end());
    return record(type, layer, payload);
  }

  RawRecording& prefill() {
    for (std::uint32_t i = 0; i < header_.geometry.num_layers(); ++i) {
      state(RecordType::kPrefill, i, header_.prompt_length);
    }
    return *this;
  }

  RawRecording& prefill_end(const StepStats& stats) {
    return record(RecordType::kPrefillEnd, 0, stats_block(stats));
  }
  RawRecording& prefill_end() { return prefill_end(sample_prefill_stats(header_)); }

  RawRecording& step(std::uint64_t index, const StepStats& stats, const Tweak& tweak = {}) {
    Bytes payload = stats_block(stats);
    if (header_.save_mode == SaveMode::kDelta) {
      const Bytes delta = sample_delta(header_.geometry, header_.prompt_length + index);
      payload.insert(payload.end(), delta.begin(), delta.end());
    }
    return record(RecordType::kStep, index, payload, tweak);
  }
  RawRecording& step(std::uint64_t index, const Tweak& tweak = {}) {
    return step(index, sample_stats(header_, index), tweak);
  }

  RawRecording& unknown(std::size_t payload_bytes) {
    return record(static_cast<RecordType>(77), 5, Bytes(payload_bytes, std::byte{0x55}),
                  [](RecordHeader& record) { record.codec = 9; });
  }

  // For delta recordings.
  RawRecording& checksums(std::uint64_t steps) {
    const Geometry& geometry = header_.geometry;
    ChecksumsBuilder builder(geometry);
    for (std::uint32_t i = 0; i < geometry.num_layers(); ++i) {
      builder.set_state(i, checksum(sample_key(geometry, i, header_.prompt_length)),
                        checksum(sample_value(geometry, i, header_.prompt_length)));
    }
    for (std::uint64_t step = 0; step < steps; ++step) {
      builder.add_step(geometry, sample_delta(geometry, header_.prompt_length + step));
    }
    return record(RecordType::kChecksums, 0, builder.finish());
  }

  RawRecording& summary() { return text(RecordType::kSummary, sample_summary(2).dump()); }

  RawRecording& trailer(const std::function<void(Trailer&)>& tweak = {}) {
    found.file_bytes = bytes.size() + kTrailerBytes;
    found.num_records = sequence_ + 1;
    if (tweak) tweak(found);
    Bytes payload(kTrailerPayloadBytes);
    encode_trailer(found, payload);
    return record(RecordType::kTrailer, 0, payload);
  }

  // META to PREFILL_END.
  RawRecording& begin() { return meta().prompt().prefill().prefill_end(); }
  // Two steps and the end.
  RawRecording& end() { return step(0).step(1).summary().trailer(); }

  [[nodiscard]] Bytes stats_block(const StepStats& stats) const {
    // As the statistics have it, which a hostile file's header may contradict.
    RecordingHeader header = header_;
    header.top_k = static_cast<std::uint32_t>(stats.top_ids.size());
    header.logits_sample = static_cast<std::uint32_t>(stats.sampled_logits.size());
    Bytes block(stats_block_bytes(header));
    encode_stats(header, stats, block);
    return block;
  }

  Bytes bytes;
  Trailer found;  // what trailer() will say

 private:
  static std::size_t align_to_record(std::size_t size) {
    return (size + kRecordAlignment - 1) / kRecordAlignment * kRecordAlignment;
  }

  void seal_header() {
    const std::span<std::byte> all(bytes);
    store(all, all.size() - 8, checksum(all.first(all.size() - 8)));
  }

  void note(RecordType type) {
    const auto first = [this](std::uint64_t& offset) {
      if (offset == 0) offset = bytes.size();
    };
    if (type == RecordType::kPrefill) first(found.first_prefill);
    if (type == RecordType::kPrefillEnd) first(found.prefill_end);
    if (type == RecordType::kFinal) first(found.first_final);
    if (type == RecordType::kSummary) first(found.summary);
    if (type == RecordType::kStep) {
      first(found.first_step);
      ++found.num_steps;
    }
  }

  RecordingHeader header_;
  std::uint32_t sequence_ = 0;
};

// Of every record, in the order of the file.
inline std::vector<RecordHeader> record_headers(const Bytes& bytes) {
  std::vector<RecordHeader> records;
  for (std::uint64_t at = load<std::uint32_t>(bytes, 12); at < bytes.size();) {
    records.push_back(
        decode_record_header(std::span(bytes).subspan(at, kRecordHeaderBytes)).value());
    at += record_bytes(records.back().stored_bytes);
  }
  return records;
}

}  // namespace kvtool::format
