#include "kvtool/format/writer.h"

#include <array>
#include <cstring>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bounded_json.h"
#include "bytes.h"
#include "checksum.h"
#include "format/records/checksums_record.h"
#include "format/records/header_codec.h"
#include "format/records/record_codec.h"
#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"
#include "layout.h"

namespace kvtool::format {
namespace {

struct Gap {
  std::uint64_t offset;
  std::uint64_t bytes;
};

// Where a delta has no rows. Most geometries have no gaps at all.
std::vector<Gap> find_gaps(const Geometry& geometry) {
  std::vector<Gap> gaps;
  const auto add = [&gaps](std::uint64_t begin, std::uint64_t end) {
    if (end > begin) gaps.push_back({begin, end - begin});
  };
  for (std::size_t i = 0; i < geometry.num_layers(); ++i) {
    const RowOffset& row = geometry.row_offset(i);
    const bool last = i + 1 == geometry.num_layers();
    add(row.key + geometry.layer(i).key_bytes(), row.value);
    add(row.value + geometry.layer(i).value_bytes(),
        last ? geometry.delta_bytes() : geometry.row_offset(i + 1).key);
  }
  return gaps;
}

std::filesystem::path partial_name(const std::filesystem::path& path) {
  std::filesystem::path partial = path;
  partial += kPartialSuffix;
  return partial;
}

}  // namespace

struct RecordingWriter::Impl {
  enum class Phase { kPrefill, kSteps, kFinal, kFinished };

  Impl(std::filesystem::path final_path, RecordingHeader recording_header, WriterOptions options)
      : path(std::move(final_path)),
        partial_path(partial_name(path)),
        header(std::move(recording_header)),
        file_system(options.file_system != nullptr ? *options.file_system : posix_file_system()),
        sync(options.sync),
        sync_every_steps(options.sync ? options.sync_every_steps : 0),
        gaps(find_gaps(header.geometry)),
        checksums(header.geometry) {}

  // Runs one public call. The first error stays: a later call that a caller
  // made in ignorance of it must not append behind a torn record.
  template <typename Call>
  void guarded(Call call) {
    if (first_error) throw *first_error;
    try {
      call();
    } catch (const Error& error) {
      first_error = error;
      throw;
    } catch (const std::bad_alloc&) {
      first_error = Error(ErrorCode::kEnvironment, path.string() + ": out of memory");
      throw *first_error;
    } catch (const std::exception& error) {
      first_error = Error(ErrorCode::kInternal, path.string() + ": " + error.what());
      throw *first_error;
    }
  }

  [[noreturn]] void misuse(const std::string& what) const {
    throw_misuse(path.string() + ": " + what);
  }

  [[nodiscard]] std::filesystem::path folder() const {
    return path.has_parent_path() ? path.parent_path() : ".";
  }

  void append(std::span<const std::byte> data) {
    file->append(data);
    offset += data.size();
  }

  void append_padding() {
    const std::array<std::byte, kRecordAlignment> zeros{};
    append(std::span(zeros).subspan(0, align_up(offset, kRecordAlignment) - offset));
  }

  RecordHeader next_header(RecordType type, std::uint64_t layer_or_step,
                           std::uint64_t payload_bytes) {
    RecordHeader record;
    record.type = type;
    record.sequence = sequence++;
    record.index = layer_or_step;
    record.offset = offset;
    record.stored_bytes = payload_bytes;
    record.raw_bytes = payload_bytes;
    record.uuid_low = uuid_low_half(header.uuid);
    return record;
  }

  void append_header(RecordHeader record, std::uint64_t payload_checksum) {
    std::array<std::byte, kRecordHeaderBytes> bytes{};
    record.payload_checksum = payload_checksum;
    encode_record_header(record, bytes);
    append(bytes);
  }

  void append_record(RecordType type, std::span<const std::byte> payload) {
    append_header(next_header(type, 0, payload.size()), checksum(payload));
    append(payload);
    append_padding();
  }

  void append_state(RecordType type, std::uint32_t layer, std::uint64_t positions,
                    std::span<const std::byte> key, std::span<const std::byte> value);
  void start(const nlohmann::json& meta, std::span<const std::int32_t> prompt);
  void write_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                           std::span<const std::byte> value);
  void write_prefill_end(const StepStats& stats);
  void write_step(const StepStats& stats, std::span<const std::byte> delta);
  void write_final_layer(std::uint32_t layer, std::span<const std::byte> key,
                         std::span<const std::byte> value);
  void finish(const nlohmann::json& summary);
  void append_trailer();

  std::filesystem::path path;
  std::filesystem::path partial_path;
  RecordingHeader header;
  FileSystem& file_system;
  bool sync;
  std::uint64_t sync_every_steps;
  std::vector<Gap> gaps;

  std::unique_ptr<WritableFile> file;
  std::optional<Error> first_error;
  Phase phase = Phase::kPrefill;
  std::uint64_t offset = 0;
  std::uint32_t sequence = 0;
  std::uint32_t next_layer = 0;
  Trailer index;
  StreamingChecksum state_checksum;
  // One whole STEP record, reused: a step is one append and no allocation.
  std::vector<std::byte> step_record;
  ChecksumsBuilder checksums;
};

void RecordingWriter::Impl::start(const nlohmann::json& meta,
                                  std::span<const std::int32_t> prompt) {
  const std::string problem = header_problem(header);
  if (!problem.empty()) throw_usage(path.string() + ": " + problem);
  if (prompt.size() != header.prompt_length) {
    misuse("prompt of " + std::to_string(prompt.size()) + " tokens, the header says " +
           std::to_string(header.prompt_length));
  }
  for (const std::int32_t token : prompt) {
    if (token < 0 || static_cast<std::uint32_t>(token) >= header.vocab_size) {
      misuse("prompt token " + std::to_string(token) + " is outside the vocabulary of " +
             std::to_string(header.vocab_size));
    }
  }
  if (!meta.is_object()) misuse("META is not a JSON object");
  const std::string meta_text = dump_json_object(meta);
  step_record.resize(step_stride_bytes(header));

  if (path.has_parent_path()) file_system.create_directories(path.parent_path());
  file = file_system.take_over(partial_path);
  if (sync) {
    file_system.sync_directory(folder());
    file_system.sync_parents(folder());
  }
  append(encode_header(header));
  append_record(RecordType::kMeta, std::as_bytes(std::span(meta_text)));
  append_record(RecordType::kPrompt, std::as_bytes(prompt));
}

void RecordingWriter::Impl::append_state(RecordType type, std::uint32_t layer,
                                         std::uint64_t positions, std::span<const std::byte> key,
                                         std::span<const std::byte> value) {
  if (layer != next_layer || layer >= header.geometry.num_layers()) {
    misuse("layer " + std::to_string(layer) + " out of order, " + std::to_string(next_layer) +
           " of " + std::to_string(header.geometry.num_layers()) + " layers are written");
  }
  const std::optional<StateLayout> layout = state_layout(header.geometry.layer(layer), positions);
  if (!layout || key.size() != layout->key_bytes || value.size() != layout->value_bytes) {
    misuse("layer " + std::to_string(layer) + ": K of " + std::to_string(key.size()) +
           " and V of " + std::to_string(value.size()) + " bytes do not hold " +
           std::to_string(positions) + " positions");
  }
  const std::array<std::byte, kRecordAlignment> zeros{};
  const auto gap = std::span(zeros).subspan(0, layout->value_offset - layout->key_bytes);
  state_checksum.reset();
  for (const std::span<const std::byte> part : {key, std::span<const std::byte>(gap), value}) {
    state_checksum.update(part);
  }
  append_header(next_header(type, layer, layout->payload_bytes), state_checksum.digest());
  append(key);
  append(gap);
  append(value);
  append_padding();
  checksums.set_state(layer, checksum(key), checksum(value));
  ++next_layer;
}

void RecordingWriter::Impl::write_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                                                std::span<const std::byte> value) {
  if (phase != Phase::kPrefill || header.save_mode == SaveMode::kFinalOnly) {
    misuse("prompt K/V after the prefill or in a final_only recording");
  }
  const std::uint64_t start_offset = offset;
  append_state(RecordType::kPrefill, layer, header.prompt_length, key, value);
  if (layer == 0) index.first_prefill = start_offset;
}

void RecordingWriter::Impl::write_prefill_end(const StepStats& stats) {
  if (phase != Phase::kPrefill) misuse("the prefill has ended already");
  if (header.save_mode != SaveMode::kFinalOnly && next_layer != header.geometry.num_layers()) {
    misuse("the prefill ends after " + std::to_string(next_layer) + " of " +
           std::to_string(header.geometry.num_layers()) + " layers");
  }
  const std::string problem = stats_problem(header, stats, true);
  if (!problem.empty()) misuse("prefill: " + problem);
  std::vector<std::byte> block(stats_block_bytes(header));
  encode_stats(header, stats, block);
  index.prefill_end = offset;
  append_record(RecordType::kPrefillEnd, block);
  phase = Phase::kSteps;
  next_layer = 0;
}

void RecordingWriter::Impl::write_step(const StepStats& stats, std::span<const std::byte> delta) {
  if (phase != Phase::kSteps) misuse("a step before the end of the prefill or after the last one");
  const std::string problem = stats_problem(header, stats, false);
  if (!problem.empty()) misuse("step " + std::to_string(index.num_steps) + ": " + problem);
  if (delta.size() != step_delta_bytes(header)) {
    misuse("step " + std::to_string(index.num_steps) + ": K/V of " + std::to_string(delta.size()) +
           " bytes, expected " + std::to_string(step_delta_bytes(header)));
  }
  if (index.num_steps == kMaxSteps) {
    throw_usage(path.string() + ": more than " + std::to_string(kMaxSteps) + " steps");
  }
  const std::uint64_t stats_bytes = stats_block_bytes(header);
  const std::span<std::byte> record(step_record);
  const std::span<std::byte> payload =
      record.subspan(kRecordHeaderBytes, step_payload_bytes(header));
  encode_stats(header, stats, payload.subspan(0, stats_bytes));
  copy_bytes(delta, payload.subspan(stats_bytes));
  if (!delta.empty()) {
    for (const Gap& gap : gaps) {
      std::memset(payload.data() + stats_bytes + gap.offset, 0, gap.bytes);
    }
  }
  if (index.num_steps == 0) index.first_step = offset;
  RecordHeader record_header = next_header(RecordType::kStep, index.num_steps, payload.size());
  record_header.payload_checksum = checksum(payload);
  encode_record_header(record_header, record.subspan(0, kRecordHeaderBytes));
  append(record);
  if (!delta.empty()) checksums.add_step(header.geometry, delta);
  ++index.num_steps;
  if (sync_every_steps != 0 && index.num_steps % sync_every_steps == 0) file->sync();
}

void RecordingWriter::Impl::write_final_layer(std::uint32_t layer, std::span<const std::byte> key,
                                              std::span<const std::byte> value) {
  if (header.save_mode != SaveMode::kFinalOnly ||
      (phase != Phase::kSteps && phase != Phase::kFinal)) {
    misuse("a final state before the end of the prefill or outside a final_only recording");
  }
  const std::uint64_t start_offset = offset;
  append_state(RecordType::kFinal, layer, header.prompt_length + index.num_steps, key, value);
  if (layer == 0) index.first_final = start_offset;
  phase = Phase::kFinal;
}

void RecordingWriter::Impl::append_trailer() {
  index.file_bytes = offset + kTrailerBytes;
  index.num_records = std::uint64_t{sequence} + 1;
  std::array<std::byte, kTrailerPayloadBytes> payload{};
  encode_trailer(index, payload);
  append_record(RecordType::kTrailer, payload);
}

void RecordingWriter::Impl::finish(const nlohmann::json& summary) {
  if (phase != Phase::kSteps && phase != Phase::kFinal) {
    misuse("finished before the end of the prefill or twice");
  }
  if (header.save_mode == SaveMode::kFinalOnly && next_layer != header.geometry.num_layers()) {
    misuse("finished with " + std::to_string(next_layer) + " of " +
           std::to_string(header.geometry.num_layers()) + " final layers");
  }
  if (!summary.is_object()) misuse("SUMMARY is not a JSON object");
  const std::string text = dump_json_object(summary);
  append_record(RecordType::kChecksums, checksums.finish());
  index.summary = offset;
  append_record(RecordType::kSummary, std::as_bytes(std::span(text)));
  append_trailer();
  if (sync) file->sync();
  file->close();
  // Still locked: whoever wants to write this name finds it finished.
  file_system.rename(partial_path, path);
  if (sync) file_system.sync_directory(folder());
  file.reset();
  phase = Phase::kFinished;
}

RecordingWriter::RecordingWriter(std::filesystem::path path, RecordingHeader header,
                                 const nlohmann::json& meta, std::span<const std::int32_t> prompt,
                                 WriterOptions options)
    : impl_(std::make_unique<Impl>(std::move(path), std::move(header), options)) {
  impl_->start(meta, prompt);
}

RecordingWriter::~RecordingWriter() = default;

void RecordingWriter::write_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                                          std::span<const std::byte> value) {
  impl_->guarded([&] { impl_->write_prefill_layer(layer, key, value); });
}

void RecordingWriter::write_prefill_end(const StepStats& stats) {
  impl_->guarded([&] { impl_->write_prefill_end(stats); });
}

void RecordingWriter::write_step(const StepStats& stats, std::span<const std::byte> delta) {
  impl_->guarded([&] { impl_->write_step(stats, delta); });
}

void RecordingWriter::write_final_layer(std::uint32_t layer, std::span<const std::byte> key,
                                        std::span<const std::byte> value) {
  impl_->guarded([&] { impl_->write_final_layer(layer, key, value); });
}

void RecordingWriter::finish(const nlohmann::json& summary) {
  impl_->guarded([&] { impl_->finish(summary); });
}

std::uint64_t RecordingWriter::bytes_written() const { return impl_->offset; }
const std::filesystem::path& RecordingWriter::path() const { return impl_->path; }
const std::filesystem::path& RecordingWriter::partial_path() const { return impl_->partial_path; }

}  // namespace kvtool::format
