#include "file_scan.h"

#include <algorithm>
#include <array>

#include "bounded_json.h"
#include "bytes.h"
#include "checksum.h"
#include "checksums_record.h"
#include "kvtool/base/error.h"
#include "kvtool/format/verify.h"
#include "layout.h"

namespace kvtool::format {
namespace {

constexpr const char* kHeaderChecksum = "the record header's checksum is wrong";
constexpr RecordType kNobodyKnows{0};

// Steps of one task read about this much.
constexpr std::uint64_t kTaskBytes = 4 << 20;

bool is_ordered(RecordType type) {
  return static_cast<std::uint16_t>(type) >= 1 && type <= RecordType::kTrailer;
}

BadRecord bad_record(const RecordHeader& record, std::string problem, Fault fault) {
  return {record, record_bytes(record.stored_bytes), std::move(problem), fault};
}

std::string json_problem(const RecordHeader& record, BlockReader& reader) {
  std::string text;
  for (std::uint64_t done = 0; done < record.stored_bytes;) {
    const auto part =
        reader.some(record.offset + kRecordHeaderBytes + done, record.stored_bytes - done);
    text.append(reinterpret_cast<const char*>(part.data()), part.size());
    done += part.size();
  }
  try {
    static_cast<void>(parse_json_object(text));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

ReadBlock make_block() { return ReadBlock(kVerifyBlockBytes); }

BlockReader::BlockReader(const RecordSource& source, ReadBlock& buffer)
    : source_(source), buffer_(buffer) {}

void BlockReader::fill(std::uint64_t offset) {
  filled_ = 0;
  const std::uint64_t bytes = std::min<std::uint64_t>(buffer_.size(), source_.size() - offset);
  source_.read(offset, std::span(buffer_).subspan(0, bytes));
  start_ = offset;
  filled_ = bytes;
}

void BlockReader::require(std::uint64_t offset, std::uint64_t bytes) const {
  if (offset <= source_.size() && bytes <= source_.size() - offset) return;
  source_.throw_damaged_at(offset, std::to_string(bytes) +
                                       " bytes should be here, but the file has " +
                                       std::to_string(source_.size()) + " bytes");
}

std::span<const std::byte> BlockReader::some(std::uint64_t offset, std::uint64_t bytes) {
  if (bytes == 0) return {};
  require(offset, 1);
  if (offset < start_ || offset >= start_ + filled_) fill(offset);
  const std::span<const std::byte> filled = std::span(buffer_).subspan(0, filled_);
  const auto rest = filled.subspan(offset - start_);
  return rest.subspan(0, std::min<std::uint64_t>(bytes, rest.size()));
}

std::span<const std::byte> BlockReader::all(std::uint64_t offset, std::uint64_t bytes) {
  require(offset, bytes);
  const auto found = some(offset, bytes);
  if (found.size() == bytes) return found;
  fill(offset);
  return some(offset, bytes);
}

std::uint64_t BlockReader::checksum_of(std::uint64_t offset, std::uint64_t bytes) {
  if (bytes == 0) return checksum({});
  auto part = some(offset, bytes);
  if (part.size() == bytes) return checksum(part);
  StreamingChecksum sum;
  for (std::uint64_t done = 0;;) {
    sum.update(part);
    done += part.size();
    if (done == bytes) return sum.digest();
    part = some(offset + done, bytes - done);
  }
}

bool BlockReader::is_zero(std::uint64_t offset, std::uint64_t bytes) {
  for (std::uint64_t done = 0; done < bytes;) {
    const auto part = some(offset + done, bytes - done);
    if (!all_zero(part)) return false;
    done += part.size();
  }
  return true;
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
      uuid_low_(uuid_low_half(header_.uuid)),
      block_(make_block()),
      position_(first_record_) {}

// ---- Map ----

// A header that may be believed; else `problem` says why not.
std::optional<RecordHeader> FileScan::header_at(std::uint64_t offset, std::string& problem) {
  std::array<std::byte, kRecordHeaderBytes> bytes;
  source_.read(offset, bytes);
  const std::optional<RecordHeader> header = decode_record_header(bytes);
  if (!header) {
    problem = kHeaderChecksum;
  } else if (auto unread = unpacking_problem(offset, kRecordHeaderBytes)) {
    problem = *std::move(unread);
  } else if (header->uuid_low != uuid_low_) {
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
  previous_ = record;
  previous_->index += task.count - 1;
  if (is_ordered(record.type)) {
    previous_known_ = previous_;
    unsure_ = false;
  } else if (record.type != RecordType::kChecksums) {
    ++result_.unknown_records;
  }
  gap_ = false;
  result_.complete = record.type == RecordType::kTrailer;
  result_.num_records += task.count;
  sequence_ = std::uint64_t{record.sequence} + task.count;
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

// What must not be between the previous record and this one. Behind a lost record
// only what cannot be explained by it is wrong.
std::string FileScan::order_problem(const RecordHeader& record) const {
  if (gap_ ? record.sequence <= sequence_ : record.sequence != sequence_) {
    return "sequence number " + std::to_string(record.sequence) + ", expected " +
           std::to_string(sequence_);
  }
  const std::string order = "out of order: " + describe_record(record) + " behind " +
                            (previous_ ? describe_record(*previous_) : "the file header");
  const RecordType before = previous_known_ ? previous_known_->type : kNobodyKnows;
  if (!is_ordered(record.type)) return before < RecordType::kPrompt && !unsure_ ? order : "";
  if (record.type < before) return order;
  const std::uint64_t layers = header_.geometry.num_layers();
  const bool final_only = header_.save_mode == SaveMode::kFinalOnly;
  if (record.type == RecordType::kStep) {
    const std::uint64_t stride = step_stride_bytes(header_);
    const bool placed =
        record.index < kMaxSteps && record.index <= (record.offset - first_record_) / stride &&
        (result_.num_steps == 0 || record.offset == result_.first_step + record.index * stride);
    if (!placed) return order;
  }
  if (record.type == RecordType::kPrefill && final_only) return order;
  if (record.type == RecordType::kFinal && !final_only) return order;
  if (record.type == before) {
    const bool run = record.type == RecordType::kPrefill || record.type == RecordType::kStep ||
                     record.type == RecordType::kFinal;
    const bool next =
        unsure_ ? record.index > previous_known_->index
                : record.index == previous_known_->index + 1 && previous_->type == record.type;
    return run && next ? "" : order;
  }
  if (unsure_) return "";
  if (record.index != 0) return order;
  const bool run_ended = !(before == RecordType::kPrefill || before == RecordType::kFinal) ||
                         previous_known_->index + 1 == layers;
  const auto follows = [&](RecordType after, RecordType then, bool skips = false) {
    return record.type == then && (before == after || skips);
  };
  const bool allowed =
      follows(kNobodyKnows, RecordType::kMeta) || follows(RecordType::kMeta, RecordType::kPrompt) ||
      follows(RecordType::kPrompt, final_only ? RecordType::kPrefillEnd : RecordType::kPrefill) ||
      follows(RecordType::kPrefill, RecordType::kPrefillEnd) ||
      follows(RecordType::kPrefillEnd, RecordType::kStep) ||
      (record.type == (final_only ? RecordType::kFinal : RecordType::kSummary) &&
       (before == RecordType::kPrefillEnd || before == RecordType::kStep)) ||
      follows(RecordType::kFinal, RecordType::kSummary) ||
      follows(RecordType::kSummary, RecordType::kTrailer);
  return run_ended && allowed ? "" : order;
}

// The next record header whose own offset, UUID and checksum are right. K/V that looks
// like one would have to know where in the file it stands.
std::optional<RecordHeader> FileScan::find_next(std::uint64_t from) {
  BlockReader reader(source_, block_);
  for (std::uint64_t at = from; at + kRecordHeaderBytes <= source_.size(); at += kRecordAlignment) {
    const auto bytes = reader.all(at, kRecordHeaderBytes);
    if (load<std::uint64_t>(bytes, 16) != at || load<std::uint64_t>(bytes, 40) != uuid_low_) {
      continue;
    }
    const auto header = decode_record_header(bytes);
    if (!header || header->sequence <= sequence_) continue;
    if (!unpacking_problem(at, kRecordHeaderBytes)) return header;
  }
  return std::nullopt;
}

// What stands behind the previous record when nothing is wrong.
RecordHeader FileScan::after_previous() const {
  RecordHeader next;
  next.type = kNobodyKnows;
  const std::uint64_t layers = header_.geometry.num_layers();
  const bool final_only = header_.save_mode == SaveMode::kFinalOnly;
  if (!previous_) {
    next.type = RecordType::kMeta;
    return next;
  }
  switch (previous_->type) {
    case RecordType::kMeta: next.type = RecordType::kPrompt; break;
    case RecordType::kPrompt:
      next.type = final_only ? RecordType::kPrefillEnd : RecordType::kPrefill;
      break;
    case RecordType::kPrefill:
    case RecordType::kFinal:
      if (previous_->index + 1 < layers) {
        next.type = previous_->type;
        next.index = previous_->index + 1;
      } else if (previous_->type == RecordType::kPrefill) {
        next.type = RecordType::kPrefillEnd;
      }
      break;
    case RecordType::kPrefillEnd: next.type = RecordType::kStep; break;
    case RecordType::kStep:
      next.type = RecordType::kStep;
      next.index = previous_->index + 1;
      break;
    case RecordType::kSummary: next.type = RecordType::kTrailer; break;
    default: break;
  }
  return next;
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
    if (!decode_stats(header_, reader.all(start, stats_block_bytes(header_.top_k)))) return false;
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
  const std::uint64_t records = found ? found->sequence - sequence_ : 1;
  RecordHeader lost = after_previous();
  // A step that was out of order says nothing about what follows it.
  const bool placed = lost.index == result_.num_steps && records <= kMaxSteps - lost.index &&
                      (lost.index == 0 || position_ == result_.first_step + lost.index * stride);
  // Between steps there are only steps; at the end of their run the statistics tell.
  const bool steps = lost.type == RecordType::kStep && placed && records <= bytes / stride &&
                     bytes == records * stride &&
                     ((found && ends_steps(*found)) || holds_statistics(records));
  if (steps) {
    lose_steps(lost.index, records, problem);
  } else {
    // STEP is only a guess where the length is not that of steps.
    if (lost.type == RecordType::kStep) lost.type = kNobodyKnows;
    lost.offset = position_;
    std::string what = problem;
    if (records > 1) what += " (" + std::to_string(records) + " records are lost)";
    result_.bad.push_back({lost, bytes, what, Fault::kHeaderLost});
  }
  position_ = end;
  gap_ = unsure_ = true;
  sequence_ = found ? found->sequence - 1 : sequence_ + records;
  if (!found) stop("the file ends without TRAILER");
}

// ---- Check ----

RecordHeader FileScan::step_header(const ScanTask& task, std::uint64_t number) const {
  RecordHeader header = task.first;
  header.index += number;
  header.sequence += static_cast<std::uint32_t>(number);
  header.offset += number * step_stride_bytes(header_);
  return header;
}

std::vector<BadRecord> FileScan::check(const ScanTask& task, ReadBlock& buffer) const {
  BlockReader reader(source_, buffer);
  std::vector<BadRecord> found;
  if (task.stored) {
    std::string problem;
    try {
      problem = packed_->stored_problem(task.first);
    } catch (const Error& error) {
      problem = error.what();
    }
    if (!problem.empty()) found.push_back(bad_record(task.first, problem, Fault::kStored));
    return found;
  }
  for (std::uint64_t i = 0; i < task.count; ++i) {
    const RecordHeader record = step_header(task, i);
    try {
      if (auto bad = check_record(record, i == 0, reader)) found.push_back(*std::move(bad));
    } catch (const Error& error) {
      // A place that the disk cannot read any more; the others may still be fine.
      found.push_back(bad_record(record, error.what(), Fault::kPayload));
    }
  }
  return found;
}

bool FileScan::is_step(std::span<const std::byte> bytes, const RecordHeader& expected,
                       RecordHeader& found) const {
  const auto header = decode_record_header(bytes);
  if (!header) return false;
  found = *header;
  return found.type == expected.type && found.index == expected.index &&
         found.sequence == expected.sequence && found.offset == expected.offset &&
         found.uuid_low == uuid_low_ && found.codec == expected.codec &&
         found.stored_bytes == expected.stored_bytes && found.raw_bytes == expected.raw_bytes;
}

// `mapped`: the map has read the record's header.
std::optional<BadRecord> FileScan::check_record(const RecordHeader& expected, bool mapped,
                                                BlockReader& reader) const {
  RecordHeader record = expected;
  if (!mapped && !is_step(reader.all(expected.offset, kRecordHeaderBytes), expected, record)) {
    const bool moved = record.offset != expected.offset || record.uuid_low != expected.uuid_low;
    return bad_record(expected,
                      moved ? describe_record(record) + " stands here, from another place or file"
                            : kHeaderChecksum,
                      Fault::kHeaderLost);
  }
  std::string problem = payload_problem(record, reader);
  // Nothing that could not be unpacked counts as intact, whatever its checksum says.
  if (auto unread = unpacking_problem(record.offset, record_bytes(record.stored_bytes))) {
    return bad_record(record, *std::move(unread), Fault::kUnpacking);
  }
  if (!problem.empty()) return bad_record(record, problem, Fault::kPayload);
  problem = content_problem(record, reader);
  if (!problem.empty()) return bad_record(record, problem, Fault::kMeaning);
  return std::nullopt;
}

std::string FileScan::payload_problem(const RecordHeader& record, BlockReader& reader) {
  const std::uint64_t start = record.offset + kRecordHeaderBytes;
  if (reader.checksum_of(start, record.stored_bytes) != record.payload_checksum) {
    return "the payload's checksum is wrong";
  }
  const std::uint64_t behind =
      record_bytes(record.stored_bytes) - kRecordHeaderBytes - record.stored_bytes;
  if (!reader.is_zero(start + record.stored_bytes, behind)) {
    return "the padding behind the payload is not zero";
  }
  return "";
}

// What only a damaged or foreign writer can produce under a right checksum.
// Lengths that are wrong have been reported by next().
std::string FileScan::content_problem(const RecordHeader& record, BlockReader& reader) const {
  const std::uint64_t start = record.offset + kRecordHeaderBytes;
  const std::uint64_t stats_bytes = stats_block_bytes(header_.top_k);
  switch (record.type) {
    case RecordType::kMeta:
    case RecordType::kSummary:
      return record.stored_bytes > kMaxJsonBytes ? "" : json_problem(record, reader);
    case RecordType::kPrompt:
      for (std::uint64_t at = 0; at + 4 <= record.stored_bytes; at += 4) {
        const auto token = load<std::int32_t>(reader.all(start + at, 4), 0);
        if (token >= 0 && static_cast<std::uint32_t>(token) < header_.vocab_size) continue;
        return "token " + std::to_string(token) + " at position " + std::to_string(at / 4) +
               " is outside the vocabulary of " + std::to_string(header_.vocab_size);
      }
      return "";
    case RecordType::kPrefillEnd:
    case RecordType::kStep: {
      if (record.stored_bytes < stats_bytes) return "";
      const auto stats = decode_stats(header_, reader.all(start, stats_bytes));
      if (!stats) return "the statistics' checksum or top-k is wrong";
      return stats_problem(header_, *stats, record.type == RecordType::kPrefillEnd);
    }
    default: return "";
  }
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

std::string FileScan::progress() const {
  if (!result_.records.contains({RecordType::kPrompt, 0})) return "nothing";
  std::uint64_t prefills = 0;
  for (const auto& [key, unused] : result_.records) {
    prefills += key.first == RecordType::kPrefill ? 1 : 0;
  }
  if (!result_.records.contains({RecordType::kPrefillEnd, 0})) {
    return "the prompt, but only " + std::to_string(prefills) + " of " +
           std::to_string(header_.geometry.num_layers()) + " layers of the prefill";
  }
  return "the prefill and " + std::to_string(result_.num_steps) + " whole steps";
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
  const auto offset_of = [&](RecordType type) -> std::uint64_t {
    const auto record = result_.records.find({type, 0});
    return record == result_.records.end() ? 0 : record->second.offset;
  };
  Trailer expected;
  expected.file_bytes = found->offset + kTrailerBytes;
  expected.num_records = std::uint64_t{found->sequence} + 1;
  expected.num_steps = result_.num_steps;
  expected.first_step = result_.num_steps > 0 ? result_.first_step : 0;
  expected.first_prefill = offset_of(RecordType::kPrefill);
  expected.prefill_end = offset_of(RecordType::kPrefillEnd);
  expected.first_final = offset_of(RecordType::kFinal);
  expected.summary = offset_of(RecordType::kSummary);
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
  const bool has_prompt = result_.records.contains({RecordType::kPrompt, 0});
  if (!result_.complete && !has_prompt && result_.bad.empty()) {
    throw_corrupt(source_.path().string() + ": the file ends within its " +
                  (previous_ ? "PROMPT" : "META") + ": nothing can be read");
  }
  if (!result_.complete) result_.truncation += "; it holds " + progress();
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

ScanResult scan_file(FileScan& scan) {
  ReadBlock buffer = make_block();
  while (const auto task = scan.next()) scan.add(scan.check(*task, buffer));
  return scan.finish();
}

}  // namespace kvtool::format
