#include "record_walk.h"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "format/bytes.h"
#include "format/checksum.h"
#include "kvtool/base/checked.h"
#include "read_block.h"
#include "record_grammar.h"

namespace kvtool::format {
namespace {

// Holds the largest statistics block, so that a STEP's is whole in the first chunk.
constexpr std::size_t kChunkBytes = 256 * 1024;
static_assert(kChunkBytes >= kMaxStatsBlockBytes);

class Walker {
 public:
  Walker(const RecordSource& source, const RecordingHeader& header, std::uint64_t first_record,
         WalkDepth depth)
      : source_(source),
        header_(header),
        depth_(depth),
        position_(first_record),
        grammar_(header),
        chunk_(kChunkBytes) {}

  RecordIndex run() {
    while (step()) {
    }
    return index_;
  }

 private:
  bool step();
  bool end_early(const std::string& what);
  std::string progress() const { return describe_progress(index_, header_); }

  void check_order(const RecordHeader& record) const;
  void check_size(const RecordHeader& record) const;
  std::string payload_problem(const RecordHeader& record);
  void check_content(const RecordHeader& record);
  void check_trailer(const RecordHeader& record);
  void note(const RecordHeader& record);

  const RecordSource& source_;
  const RecordingHeader& header_;
  WalkDepth depth_;
  std::uint64_t position_;
  RecordGrammar grammar_;
  RecordIndex index_;
  ReadBlock chunk_;
  std::vector<std::byte> head_;  // the payload's first bytes, at most a chunk
};

bool Walker::end_early(const std::string& what) {
  if (index_.prompt == 0) throw_no_prompt(source_.path(), grammar_.previous().has_value());
  index_.truncation = what + " at byte " + std::to_string(position_) + "; it holds " + progress();
  return false;
}

// True when another record may follow.
bool Walker::step() {
  const std::uint64_t rest = source_.size() - position_;
  if (rest == 0) return end_early("the file ends without SUMMARY and TRAILER");
  if (rest < kRecordHeaderBytes) return end_early("the file ends within a record header");
  const std::optional<RecordHeader> record = source_.try_read_header(position_);
  if (!record) {
    if (source_.is_zero_from(position_, chunk_)) {
      return end_early("the file holds only zeros from the record");
    }
    source_.throw_damaged_at(position_, "the header of record " +
                                            std::to_string(grammar_.sequence()) + " (" +
                                            (grammar_.previous() ? "after " + progress() : "META") +
                                            ") has a wrong checksum");
  }
  check_order(*record);
  check_size(*record);
  if (record->stored_bytes > rest || record_bytes(record->stored_bytes) > rest) {
    return end_early("the file ends within " + describe_record(*record));
  }
  const std::uint64_t end = position_ + record_bytes(record->stored_bytes);
  const std::string problem = payload_problem(*record);
  if (!problem.empty()) {
    const bool may_be_torn = record->type != RecordType::kTrailer && index_.prompt != 0;
    if (!may_be_torn || !source_.is_zero_from(end, chunk_)) source_.throw_damaged(*record, problem);
    return end_early(describe_record(*record) + " is torn (" + problem + ")");
  }
  check_content(*record);
  note(*record);
  grammar_.take(*record);
  position_ = end;
  return record->type != RecordType::kTrailer;
}

void Walker::check_order(const RecordHeader& record) const {
  switch (grammar_.fit(record)) {
    case RecordGrammar::Fit::kFits: return;
    case RecordGrammar::Fit::kWrongSequence:
      source_.throw_damaged(record, "sequence number " + std::to_string(record.sequence) +
                                        ", expected " + std::to_string(grammar_.sequence()));
    case RecordGrammar::Fit::kOutOfOrder:
      source_.throw_damaged(record,
                            std::string("out of order: ") + RecordGrammar::rule(record.type));
  }
}

void Walker::check_size(const RecordHeader& record) const {
  if (is_ordered(record.type)) source_.check_codec(record);
  const auto expected = expected_payload_bytes(header_, record, index_.trailer.num_steps);
  if (expected && record.stored_bytes != *expected) {
    source_.throw_damaged(record, "payload of " + std::to_string(record.stored_bytes) +
                                      " bytes, expected " + std::to_string(*expected));
  }
  const bool is_json = record.type == RecordType::kMeta || record.type == RecordType::kSummary;
  if (is_json && record.stored_bytes > kMaxJsonBytes) {
    source_.throw_damaged(record, "JSON of " + std::to_string(record.stored_bytes) +
                                      " bytes, at most " + std::to_string(kMaxJsonBytes) +
                                      " are allowed");
  }
}

// What is wrong with the record's payload or padding, both in the file; also
// leaves the payload's first bytes in head_.
std::string Walker::payload_problem(const RecordHeader& record) {
  const bool is_state = record.type == RecordType::kPrefill || record.type == RecordType::kFinal;
  if (is_state && depth_ == WalkDepth::kIndex) return "";
  StreamingChecksum sum;
  const std::uint64_t start = record.offset + kRecordHeaderBytes;
  for (std::uint64_t done = 0; done < record.stored_bytes;) {
    const auto part = std::span(chunk_).subspan(
        0, std::min<std::uint64_t>(chunk_.size(), record.stored_bytes - done));
    source_.read(start + done, part);
    sum.update(part);
    if (done == 0) head_.assign(part.begin(), part.end());
    done += part.size();
  }
  if (sum.digest() != record.payload_checksum) return "the payload's checksum is wrong";
  std::array<std::byte, kRecordAlignment> padding{};
  const auto behind = std::span(padding).subspan(
      0, record_bytes(record.stored_bytes) - kRecordHeaderBytes - record.stored_bytes);
  source_.read(start + record.stored_bytes, behind);
  return all_zero(behind) ? "" : "the padding behind the payload is not zero";
}

// What only a damaged or foreign writer can produce under a right checksum.
void Walker::check_content(const RecordHeader& record) {
  if (record.type == RecordType::kStep || record.type == RecordType::kPrefillEnd) {
    const std::string problem =
        stats_block_problem(header_, std::span(head_).subspan(0, stats_block_bytes(header_)),
                            record.type == RecordType::kPrefillEnd);
    if (!problem.empty()) source_.throw_damaged(record, problem);
  }
  if (record.type == RecordType::kTrailer) check_trailer(record);
}

void Walker::check_trailer(const RecordHeader& record) {
  const std::uint64_t end = position_ + kTrailerBytes;
  if (end != source_.size()) {
    source_.throw_damaged(
        record, std::to_string(source_.size() - end) + " bytes behind the end of the recording");
  }
  Trailer expected = index_.trailer;
  expected.file_bytes = end;
  expected.num_records = grammar_.sequence() + 1;
  if (!(decode_trailer(head_) == expected)) {
    source_.throw_damaged(record, "its counts and offsets contradict the records");
  }
  index_.trailer = expected;
}

void Walker::note(const RecordHeader& record) {
  Trailer& found = index_.trailer;
  switch (record.type) {
    case RecordType::kPrompt: index_.prompt = position_; return;
    case RecordType::kPrefill:
      if (index_.num_prefills++ == 0) found.first_prefill = position_;
      return;
    case RecordType::kPrefillEnd: found.prefill_end = position_; return;
    case RecordType::kStep:
      if (found.num_steps++ == 0) found.first_step = position_;
      return;
    case RecordType::kFinal:
      if (index_.num_finals++ == 0) found.first_final = position_;
      return;
    case RecordType::kSummary: found.summary = position_; return;
    case RecordType::kTrailer: index_.complete = true; return;
    default: return;
  }
}

}  // namespace

RecordIndex walk_records(const RecordSource& source, const RecordingHeader& header,
                         std::uint64_t first_record, WalkDepth depth) {
  return Walker(source, header, first_record, depth).run();
}

}  // namespace kvtool::format
