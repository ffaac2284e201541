#include "kvtool/format/reader.h"

#include <array>
#include <new>
#include <nlohmann/json.hpp>
#include <utility>

#include "bounded_json.h"
#include "bytes.h"
#include "checksum.h"
#include "format/packed/packed_file.h"
#include "format/records/header_codec.h"
#include "format/records/trailer.h"
#include "kvtool/base/error.h"
#include "reader_impl.h"

namespace kvtool::format {

Recording::Impl::Impl(RecordSource record_source, RecordingHeader recording_header,
                      std::uint64_t first)
    : source(std::move(record_source)), header(std::move(recording_header)), first_record(first) {
  auto found = index_from_trailer(source, header, first_record);
  index = found ? *std::move(found) : walk_records(source, header, first_record, WalkDepth::kIndex);
  meta = read_json(first_record, RecordType::kMeta);
  if (index.complete) summary = read_json(index.trailer.summary, RecordType::kSummary);
  load_prompt();
  if (has_prefill()) load_prefill_stats();
  place_states();
  verified_steps = std::vector<std::atomic<bool>>(num_steps());
}

nlohmann::json Recording::Impl::read_json(std::uint64_t offset, RecordType type) const {
  const RecordHeader record = source.read_header(offset, type, 0, std::nullopt);
  if (record.stored_bytes > kMaxJsonBytes) {
    source.throw_damaged(record, "JSON of " + std::to_string(record.stored_bytes) +
                                     " bytes, at most " + std::to_string(kMaxJsonBytes) +
                                     " are allowed");
  }
  std::string text(record.stored_bytes, '\0');
  source.read_payload(record, std::as_writable_bytes(std::span(text)));
  try {
    return parse_json_object(text);
  } catch (const Error& error) {
    source.throw_damaged(record, error.what());
  }
}

void Recording::Impl::load_prompt() {
  const RecordHeader record =
      source.read_header(index.prompt, RecordType::kPrompt, 0, 4 * header.prompt_length);
  prompt.resize(header.prompt_length);
  source.read_payload(record, std::as_writable_bytes(std::span(prompt)));
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] >= 0 && static_cast<std::uint32_t>(prompt[i]) < header.vocab_size) continue;
    source.throw_damaged(record, "token " + std::to_string(prompt[i]) + " at position " +
                                     std::to_string(i) + " is outside the vocabulary of " +
                                     std::to_string(header.vocab_size));
  }
}

void Recording::Impl::load_prefill_stats() {
  std::vector<std::byte> block(stats_block_bytes(header));
  const RecordHeader record =
      source.read_header(index.trailer.prefill_end, RecordType::kPrefillEnd, 0, block.size());
  source.read_payload(record, block);
  prefill_stats = checked_stats(record, block);
}

void Recording::Impl::place_states() {
  const bool finals_only = header.save_mode == SaveMode::kFinalOnly;
  if (finals_only ? !has_finals() : !has_prefill()) return;
  std::uint64_t offset = finals_only ? index.trailer.first_final : index.trailer.first_prefill;
  const std::uint64_t positions = header.prompt_length + (finals_only ? num_steps() : 0);
  for (const LayerGeometry& layer : header.geometry.layers()) {
    state_offsets.push_back(offset);
    const auto layout = state_layout(layer, positions);
    // The index was made with the same sizes, so they fit.
    offset += record_bytes(layout.value().payload_bytes);
  }
}

std::uint64_t Recording::Impl::num_cached_positions() const {
  if (header.save_mode == SaveMode::kFinalOnly) {
    return has_finals() ? header.prompt_length + num_steps() : 0;
  }
  if (!has_prefill()) return 0;
  return header.prompt_length + (header.save_mode == SaveMode::kDelta ? num_steps() : 0);
}

std::uint64_t Recording::Impl::step_offset(std::uint64_t step) const {
  return index.trailer.first_step + step * step_stride_bytes(header);
}

void Recording::Impl::misuse(const std::string& what) const {
  throw_misuse(source.path().string() + ": " + what);
}

void Recording::Impl::require_step(std::uint64_t step) const {
  if (step < num_steps()) return;
  misuse("no step " + std::to_string(step) + ", it has " + std::to_string(num_steps()) + " steps" +
         (index.complete ? "" : " (truncated)"));
}

StepStats Recording::Impl::checked_stats(const RecordHeader& record,
                                         std::span<const std::byte> block) const {
  auto stats = decode_stats(header, block);
  if (!stats) source.throw_damaged(record, "the statistics' checksum or top-k is wrong");
  const std::string problem = stats_problem(header, *stats, record.type == RecordType::kPrefillEnd);
  if (!problem.empty()) source.throw_damaged(record, problem);
  return *std::move(stats);
}

StepStats Recording::Impl::read_stats(std::uint64_t step) const {
  require_step(step);
  const std::uint64_t offset = step_offset(step);
  std::array<std::byte, 2 * kRecordHeaderBytes + 64 + 8 * kMaxTopK> buffer;
  const auto bytes = std::span(buffer).subspan(0, kRecordHeaderBytes + stats_block_bytes(header));
  source.read(offset, bytes);
  const RecordHeader record =
      source.check_header(bytes.subspan(0, kRecordHeaderBytes), offset, RecordType::kStep, step,
                          step_payload_bytes(header));
  return checked_stats(record, bytes.subspan(kRecordHeaderBytes));
}

Recording::Recording(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Recording::~Recording() = default;
Recording::Recording(Recording&&) noexcept = default;
Recording& Recording::operator=(Recording&&) noexcept = default;

Recording Recording::open(const std::filesystem::path& path, ReaderOptions options) {
  FileSystem& files = options.file_system != nullptr ? *options.file_system : posix_file_system();
  try {
    OpenedRecording opened = open_recording_file(files, path);
    DecodedHeader decoded = read_header(*opened.file);
    const std::uint64_t uuid_low = uuid_low_half(decoded.header.uuid);
    auto impl = std::make_unique<Impl>(RecordSource(std::move(opened.file), uuid_low),
                                       std::move(decoded.header), decoded.header_bytes);
    impl->packed = opened.packed;
    return Recording(std::move(impl));
  } catch (const std::bad_alloc&) {
    throw_environment(path.string() + ": not enough memory to open it");
  }
}

const std::filesystem::path& Recording::path() const { return impl_->source.path(); }
std::uint64_t Recording::file_bytes() const { return impl_->source.size(); }
bool Recording::packed() const { return impl_->packed != nullptr; }
std::uint64_t Recording::stored_bytes() const {
  return packed() ? impl_->packed->packed_bytes() : file_bytes();
}
const RecordingHeader& Recording::header() const { return impl_->header; }
const nlohmann::json& Recording::meta() const { return impl_->meta; }
const nlohmann::json& Recording::summary() const { return impl_->summary; }
std::span<const std::int32_t> Recording::prompt() const { return impl_->prompt; }
bool Recording::complete() const { return impl_->index.complete; }
const std::string& Recording::truncation() const { return impl_->index.truncation; }
bool Recording::has_prefill() const { return impl_->has_prefill(); }
std::uint64_t Recording::num_steps() const { return impl_->num_steps(); }
std::uint64_t Recording::num_cached_positions() const { return impl_->num_cached_positions(); }

std::vector<std::int32_t> Recording::read_tokens() const {
  std::vector<std::int32_t> tokens;
  if (!has_prefill()) return tokens;
  tokens.reserve(num_steps() + 1);
  tokens.push_back(impl_->prefill_stats.token);
  for (std::uint64_t step = 0; step < num_steps(); ++step) {
    tokens.push_back(impl_->read_stats(step).token);
  }
  return tokens;
}

StepStats Recording::read_prefill_stats() const {
  if (!has_prefill()) impl_->misuse("no prefill: " + truncation());
  return impl_->prefill_stats;
}

StepStats Recording::read_step_stats(std::uint64_t step) const { return impl_->read_stats(step); }

void Recording::release_buffers() const {
  {
    const std::lock_guard lock(impl_->final_mutex);
    impl_->finals.clear();
  }
  if (packed()) impl_->packed->release_blocks();
}

void Recording::verify() const {
  if (packed()) impl_->packed->verify();
  const RecordIndex found =
      walk_records(impl_->source, impl_->header, impl_->first_record, WalkDepth::kEverything);
  // The walk follows the records, opening followed the trailer.
  if (found.complete != complete() || found.trailer.num_steps != num_steps() ||
      found.trailer.prefill_end != impl_->index.trailer.prefill_end) {
    throw_corrupt(path().string() + ": its records changed while it was open");
  }
}

}  // namespace kvtool::format
