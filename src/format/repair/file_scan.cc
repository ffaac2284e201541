#include "file_scan.h"

#include <algorithm>
#include <array>

#include "format/bytes.h"
#include "format/layout.h"
#include "format/records/block_reader.h"
#include "format/records/checksums_record.h"

namespace kvtool::format {
namespace {

// Steps of one task read about this much.
constexpr std::uint64_t kTaskBytes = 4 << 20;

}  // namespace

BadRecord bad_record(const RecordHeader& record, std::string problem, Fault fault) {
  return {record, record_bytes(record.stored_bytes), std::move(problem), fault};
}

const RecordHeader* ScanResult::find(RecordType type, std::uint64_t index) const {
  const auto found = records.find({type, index});
  return found == records.end() || bad_keys.contains({type, index}) ? nullptr : &found->second;
}

namespace {

// One block for each thread, and one for the map.
OpenedRecording open_tolerantly(FileSystem& files, const std::filesystem::path& path,
                                unsigned threads) {
  return open_recording_file(files, path,
                             {.tolerant = true, .cached_blocks = std::size_t{threads} + 1});
}

}  // namespace

FileScan::FileScan(FileSystem& files, const std::filesystem::path& path, unsigned threads)
    : FileScan(open_tolerantly(files, path, threads)) {}

FileScan::FileScan(OpenedRecording opened)
    : FileScan(std::move(opened), read_header(*opened.file)) {}

FileScan::FileScan(OpenedRecording&& opened, DecodedHeader decoded)
    : source_(std::move(opened.file), uuid_low_half(decoded.header.uuid)),
      packed_(opened.packed),
      header_(std::move(decoded.header)),
      first_record_(decoded.header_bytes),
      block_(make_block()),
      position_(first_record_),
      grammar_(header_) {}

// ---- Map ----

// A header that may be believed; else `problem` says why not.
std::optional<RecordHeader> FileScan::header_at(std::uint64_t offset, std::string& problem) {
  std::array<std::byte, kRecordHeaderBytes> bytes;
  source_.read(offset, bytes);
  const std::optional<RecordHeader> header = decode_record_header(bytes);
  if (!header) {
    problem = kHeaderChecksumProblem;
  } else if (auto unread = unpacking_problem(offset, kRecordHeaderBytes)) {
    problem = *std::move(unread);
  } else if (header->uuid_low != uuid_low_half(header_.uuid)) {
    problem = describe_record(*header) + " of another recording stands here";
  } else if (header->offset != offset) {
    problem = describe_record(*header) + " stands here, which belongs at byte " +
              std::to_string(header->offset);
  } else {
    return header;
  }
  return std::nullopt;
}

void FileScan::stop(std::string truncation) {
  stopped_ = true;
  if (!truncation.empty()) {
    result_.truncation = std::move(truncation) + " at byte " + std::to_string(position_);
  }
}

std::optional<ScanTask> FileScan::next() {
  if (auto task = next_record()) return task;
  if (packed_ == nullptr || next_stored_ == packed_->records().size()) return std::nullopt;
  ScanTask task{packed_->records()[next_stored_++]};
  task.stored = true;
  return task;
}

std::optional<ScanTask> FileScan::next_record() {
  while (!stopped_) {
    const std::uint64_t rest = source_.size() - position_;
    if (result_.complete) {
      if (rest > 0) {
        RecordHeader behind;
        behind.type = kNobodyKnows;
        behind.offset = position_;
        result_.bad.push_back(
            {behind, rest, std::to_string(rest) + " bytes behind the end of the recording"});
      }
      stop("");
    } else if (rest == 0) {
      stop("the file ends without SUMMARY and TRAILER");
    } else if (rest < kRecordHeaderBytes) {
      stop("the file ends within a record header");
    } else {
      std::string problem;
      const std::optional<RecordHeader> record = header_at(position_, problem);
      if (record) {
        if (auto task = accept(*record)) return task;
      } else if (BlockReader(source_, block_).is_zero(position_, rest)) {
        stop("the file holds only zeros from the record");
      } else {
        lose(problem);
      }
    }
  }
  return std::nullopt;
}

std::optional<ScanTask> FileScan::accept(const RecordHeader& record) {
  const std::uint64_t rest = source_.size() - position_;
  std::string problem = shape_problem(record);
  const bool shaped = problem.empty();
  const bool fits = record.stored_bytes <= rest && record_bytes(record.stored_bytes) <= rest;
  if (!fits && shaped) {
    stop("the file ends within " + describe_record(record));
    return std::nullopt;
  }
  if (!fits) {
    lose(describe_record(record) + " has a " + problem);
    return std::nullopt;
  }
  if (shaped) problem = order_problem(record);
  if (!problem.empty()) result_.bad.push_back(bad_record(record, problem, Fault::kMeaning));

  ScanTask task{record, 1, record_bytes(record.stored_bytes)};
  if (record.type == RecordType::kStep && problem.empty()) {
    task.count = steps_from(record);
    task.bytes *= task.count;
    if (result_.num_steps == 0) {
      result_.first_step = position_ - record.index * step_stride_bytes(header_);
    }
    result_.num_steps = std::max(result_.num_steps, record.index + task.count);
  } else {
    result_.records.try_emplace({record.type, is_ordered(record.type) ? record.index : 0}, record);
  }
  grammar_.take(record, task.count);
  const bool known = is_ordered(record.type) || record.type == RecordType::kChecksums;
  if (!known) ++result_.unknown_records;
  result_.complete = record.type == RecordType::kTrailer;
  result_.num_records += task.count;
  position_ += task.bytes;
  return task;
}

// How many STEPs follow one another from here, at most to the end of a group, or of
// several where they are small. Headers in between are left to check().
std::uint64_t FileScan::steps_from(const RecordHeader& first) {
  const std::uint64_t stride = step_stride_bytes(header_);
  const std::uint64_t groups =
      std::max<std::uint64_t>(1, kTaskBytes / (stride * kChecksumGroupSteps));
  std::uint64_t count = groups * kChecksumGroupSteps - first.index % kChecksumGroupSteps;
  for (; count > 1; count /= 2) {
    const std::uint64_t rest = source_.size() - first.offset;
    if (count > rest / stride || rest - count * stride < kRecordHeaderBytes) continue;
    std::string unused;
    const auto behind = header_at(first.offset + count * stride, unused);
    // A step that is in its place by number and index has only steps before it.
    if (behind && behind->type == RecordType::kStep && behind->index == first.index + count &&
        behind->sequence == first.sequence + count) {
      return count;
    }
  }
  return 1;
}

// What is wrong with the lengths of a record, in words.
std::string FileScan::shape_problem(const RecordHeader& record) const {
  const bool known = is_ordered(record.type) || record.type == RecordType::kChecksums;
  if (known && record.codec != 0) {
    return "packing with codec " + std::to_string(record.codec) + ", which this kvtool cannot read";
  }
  if (known && record.raw_bytes != record.stored_bytes) return "payload with two lengths";
  const bool layered = record.type == RecordType::kPrefill || record.type == RecordType::kFinal;
  if (layered && record.index >= header_.geometry.num_layers()) return "layer that does not exist";
  const auto expected = expected_payload_bytes(header_, record, result_.num_steps);
  if (expected && record.stored_bytes != *expected) {
    return "payload of " + std::to_string(record.stored_bytes) + " bytes, expected " +
           std::to_string(*expected);
  }
  const bool is_json = record.type == RecordType::kMeta || record.type == RecordType::kSummary;
  if (is_json && record.stored_bytes > kMaxJsonBytes) {
    return "JSON of " + std::to_string(record.stored_bytes) + " bytes";
  }
  return "";
}

// Why the record cannot stand here, in words.
std::string FileScan::order_problem(const RecordHeader& record) const {
  const RecordGrammar::Fit fit = grammar_.fit(record);
  if (fit == RecordGrammar::Fit::kWrongSequence) {
    return "sequence number " + std::to_string(record.sequence) + ", expected " +
           std::to_string(grammar_.sequence());
  }
  if (fit == RecordGrammar::Fit::kFits && is_in_place(record)) return "";
  const auto& previous = grammar_.previous();
  return "out of order: " + describe_record(record) + " behind " +
         (previous ? describe_record(*previous) : "the file header");
}

// Steps stand one stride apart, lost ones too.
bool FileScan::is_in_place(const RecordHeader& record) const {
  if (record.type != RecordType::kStep) return true;
  const std::uint64_t stride = step_stride_bytes(header_);
  return record.index <= (record.offset - first_record_) / stride &&
         (result_.num_steps == 0 || record.offset == result_.first_step + record.index * stride);
}

// The next record header whose own offset, UUID and checksum are right. K/V that looks
// like one would have to know where in the file it stands.
std::optional<RecordHeader> FileScan::find_next(std::uint64_t from) {
  BlockReader reader(source_, block_);
  const std::uint64_t uuid_low = uuid_low_half(header_.uuid);
  for (std::uint64_t at = from; at + kRecordHeaderBytes <= source_.size(); at += kRecordAlignment) {
    const auto bytes = reader.all(at, kRecordHeaderBytes);
    if (load<std::uint64_t>(bytes, 16) != at || load<std::uint64_t>(bytes, 40) != uuid_low) {
      continue;
    }
    const auto header = decode_record_header(bytes);
    if (!header || header->sequence <= grammar_.sequence()) continue;
    if (!unpacking_problem(at, kRecordHeaderBytes)) return header;
  }
  return std::nullopt;
}

void FileScan::lose_steps(std::uint64_t first, std::uint64_t count, const std::string& problem) {
  const std::uint64_t stride = step_stride_bytes(header_);
  for (std::uint64_t i = 0; i < count; ++i) {
    RecordHeader record;
    record.type = RecordType::kStep;
    record.index = first + i;
    record.offset = position_ + i * stride;
    result_.bad.push_back({record, stride, problem, Fault::kHeaderLost});
  }
  if (result_.num_steps == 0) result_.first_step = position_ - first * stride;
  result_.num_steps = std::max(result_.num_steps, first + count);
  result_.num_records += count;
}

// `steps` payloads from position_ on start with an intact statistics block.
bool FileScan::holds_statistics(std::uint64_t steps) {
  BlockReader reader(source_, block_);
  for (std::uint64_t i = 0; i < steps; ++i) {
    const std::uint64_t start = position_ + i * step_stride_bytes(header_) + kRecordHeaderBytes;
    if (!decode_stats(header_, reader.all(start, stats_block_bytes(header_)))) return false;
  }
  return true;
}

// Only steps can stand between a step, or PREFILL_END, and this record.
bool FileScan::ends_steps(const RecordHeader& record) const {
  return record.type == RecordType::kStep ||
         (record.type == RecordType::kChecksums && header_.save_mode == SaveMode::kDelta);
}

// The header at position_ is lost: goes on at the next one that is not.
void FileScan::lose(const std::string& problem) {
  const std::optional<RecordHeader> found = find_next(position_ + kRecordAlignment);
  const std::uint64_t end = found ? found->offset : source_.size();
  const std::uint64_t bytes = end - position_;
  const std::uint64_t stride = step_stride_bytes(header_);
  const std::uint64_t records = found ? found->sequence - grammar_.sequence() : 1;
  const auto [type, index] = grammar_.expected();
  // A step that was out of order says nothing about what follows it.
  const bool placed = index == result_.num_steps && records <= kMaxSteps - index &&
                      (index == 0 || position_ == result_.first_step + index * stride);
  // Between steps there are only steps; at the end of their run the statistics tell.
  const bool steps = type == RecordType::kStep && placed && records <= bytes / stride &&
                     bytes == records * stride &&
                     ((found && ends_steps(*found)) || holds_statistics(records));
  if (steps) {
    lose_steps(index, records, problem);
  } else {
    RecordHeader lost;
    // STEP is only a guess where the length is not that of steps.
    lost.type = type == RecordType::kStep ? kNobodyKnows : type;
    lost.index = index;
    lost.offset = position_;
    std::string what = problem;
    if (records > 1) what += " (" + std::to_string(records) + " records are lost)";
    result_.bad.push_back({lost, bytes, what, Fault::kHeaderLost});
  }
  position_ = end;
  grammar_.lose_up_to(found ? found->sequence : grammar_.sequence() + records);
  if (!found) stop("the file ends without TRAILER");
}

std::uint64_t FileScan::stored_share(const ScanTask& task) const {
  if (packed_ == nullptr) return task.bytes;
  const double ratio = static_cast<double>(stored_bytes()) / static_cast<double>(source_.size());
  return static_cast<std::uint64_t>(static_cast<double>(task.bytes) * ratio);
}

void FileScan::add(std::vector<BadRecord> bad) {
  for (BadRecord& each : bad) {
    (each.fault == Fault::kStored ? stored_bad_ : result_.bad).push_back(std::move(each));
  }
}

// ---- Verdict ----

// As a walk would have it, from the records that are there, damaged or not.
RecordIndex FileScan::index() const {
  const auto offset_of = [&](RecordType type) -> std::uint64_t {
    const auto record = result_.records.find({type, 0});
    return record == result_.records.end() ? 0 : record->second.offset;
  };
  RecordIndex index;
  index.prompt = offset_of(RecordType::kPrompt);
  index.trailer.num_steps = result_.num_steps;
  index.trailer.first_step = result_.num_steps > 0 ? result_.first_step : 0;
  index.trailer.first_prefill = offset_of(RecordType::kPrefill);
  index.trailer.prefill_end = offset_of(RecordType::kPrefillEnd);
  index.trailer.first_final = offset_of(RecordType::kFinal);
  index.trailer.summary = offset_of(RecordType::kSummary);
  for (const auto& [key, unused] : result_.records) {
    if (key.first == RecordType::kPrefill) ++index.num_prefills;
    if (key.first == RecordType::kFinal) ++index.num_finals;
  }
  return index;
}

// docs/format.md, "Truncated or damaged", rule 4: the last append, of which
// only a part arrived.
void FileScan::take_torn_tail() {
  if (result_.complete || result_.bad.empty()) return;
  const BadRecord last = result_.bad.back();
  const bool may_be_torn = last.fault == Fault::kPayload && last.record.type != RecordType::kMeta &&
                           last.record.type != RecordType::kPrompt &&
                           last.record.offset + last.bytes == position_;
  if (!may_be_torn ||
      !BlockReader(source_, block_).is_zero(position_, source_.size() - position_)) {
    return;
  }
  result_.bad.pop_back();
  --result_.num_records;
  if (last.record.type == RecordType::kStep) {
    --result_.num_steps;
  } else {
    result_.records.erase({last.record.type, last.record.index});
  }
  result_.truncation = describe_record(last.record) + " is torn (" + last.problem + ") at byte " +
                       std::to_string(last.record.offset);
}

void FileScan::check_trailer() {
  const RecordHeader* found = result_.find(RecordType::kTrailer);
  if (found == nullptr) return;
  Trailer expected = index().trailer;
  expected.file_bytes = found->offset + kTrailerBytes;
  expected.num_records = std::uint64_t{found->sequence} + 1;
  std::array<std::byte, kTrailerPayloadBytes> payload;
  source_.read(found->offset + kRecordHeaderBytes, payload);
  const Trailer trailer = decode_trailer(payload);
  // Damaged records may be what it counts.
  if (result_.bad.empty() ? trailer == expected
                          : trailer.file_bytes == expected.file_bytes &&
                                trailer.num_records == expected.num_records) {
    return;
  }
  result_.bad.push_back(
      bad_record(*found, "its counts and offsets contradict the records", Fault::kMeaning));
  result_.bad_keys.insert({RecordType::kTrailer, 0});
}

ScanResult FileScan::finish() {
  const auto by_offset = [](const BadRecord& a, const BadRecord& b) {
    return a.record.offset < b.record.offset;
  };
  std::stable_sort(result_.bad.begin(), result_.bad.end(), by_offset);
  // The order of a record and its payload may both be wrong: the first says enough.
  const auto same = [](const BadRecord& a, const BadRecord& b) {
    return a.record.offset == b.record.offset;
  };
  result_.bad.erase(std::unique(result_.bad.begin(), result_.bad.end(), same), result_.bad.end());
  take_torn_tail();
  for (const BadRecord& each : result_.bad) {
    if (each.record.type == RecordType::kStep) continue;
    result_.bad_keys.insert({each.record.type, each.record.index});
  }
  if (!result_.complete) {
    const RecordIndex found = index();
    if (found.prompt == 0 && result_.bad.empty()) {
      throw_no_prompt(source_.path(), grammar_.previous().has_value());
    }
    result_.truncation += "; it holds " + describe_progress(found, header_);
  }
  check_trailer();
  count_intact_steps();
  if (packed_ != nullptr) take_stored_faults();
  return std::move(result_);
}

void FileScan::take_stored_faults() {
  for (BadRecord& each : result_.bad) {
    auto unread = unpacking_problem(each.record.offset, each.bytes);
    if (unread && each.fault == Fault::kHeaderLost) each.problem = *std::move(unread);
  }
  result_.stored_bad = packed_->faults();
  for (BadRecord& each : stored_bad_) {
    const RecordHeader& record = each.record;
    const bool is_block = record.type == kPackedRecord;
    // The original's records tell more, and are the same damage.
    if (is_block && !result_.bad.empty() && unpacking_problem(record.index, record.raw_bytes)) {
      continue;
    }
    result_.stored_bad.push_back({record.offset, each.bytes,
                                  "packed record " + std::to_string(record.sequence),
                                  std::move(each.problem)});
  }
  std::sort(result_.stored_bad.begin(), result_.stored_bad.end(),
            [](const PackedFault& a, const PackedFault& b) { return a.offset < b.offset; });
  if (result_.complete && !packed_->end() && result_.stored_bad.empty()) {
    result_.truncation = "the packed file ends without PACK_END at byte " +
                         std::to_string(packed_->packed_bytes()) + "; it holds everything else";
  }
}

void FileScan::count_intact_steps() {
  const bool final_only = header_.save_mode == SaveMode::kFinalOnly;
  const std::uint64_t layers = final_only ? 0 : header_.geometry.num_layers();
  bool prefill = result_.find(RecordType::kPrompt) != nullptr &&
                 result_.find(RecordType::kPrefillEnd) != nullptr;
  for (std::uint64_t i = 0; i < layers; ++i) {
    prefill = prefill && result_.find(RecordType::kPrefill, i) != nullptr;
  }
  if (!prefill) return;
  result_.intact_steps = result_.num_steps;
  for (const BadRecord& each : result_.bad) {
    if (each.record.type == RecordType::kStep) {
      result_.intact_steps = std::min(result_.intact_steps, each.record.index);
    } else if (each.record.type == kNobodyKnows && each.record.offset >= result_.first_step) {
      const std::uint64_t into = each.record.offset - result_.first_step;
      result_.intact_steps = std::min(result_.intact_steps, into / step_stride_bytes(header_));
    }
  }
}

}  // namespace kvtool::format
