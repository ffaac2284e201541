#include "record_walk.h"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "bounded_json.h"
#include "bytes.h"
#include "checksum.h"
#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"
#include "read_block.h"

namespace kvtool::format {
namespace {

// Holds the largest statistics block, so that a STEP's is whole in the first chunk.
constexpr std::size_t kChunkBytes = 256 * 1024;
static_assert(kChunkBytes >= 40 + 8 * kMaxTopK + 64);

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

class Walker {
 public:
  Walker(const RecordSource& source, const RecordingHeader& header, std::uint64_t first_record,
         WalkDepth depth)
      : source_(source),
        header_(header),
        depth_(depth),
        position_(first_record),
        chunk_(kChunkBytes) {}

  RecordIndex run() {
    while (step()) {
    }
    return index_;
  }

 private:
  bool step();
  bool end_early(const std::string& what);
  std::string progress() const;
  bool zeros_from(std::uint64_t offset);

  void check_order(const RecordHeader& record);
  void check_after(const RecordHeader& record, bool allowed, const char* rule) const;
  void check_size(const RecordHeader& record) const;
  std::string payload_problem(const RecordHeader& record);
  void check_content(const RecordHeader& record);
  void check_trailer(const RecordHeader& record);
  void note(const RecordHeader& record);

  const RecordSource& source_;
  const RecordingHeader& header_;
  WalkDepth depth_;
  std::uint64_t position_;
  std::uint64_t sequence_ = 0;
  std::optional<RecordType> previous_;
  RecordIndex index_;
  ReadBlock chunk_;
  std::vector<std::byte> head_;  // the payload's first bytes, at most a chunk
};

std::string Walker::progress() const {
  const Trailer& found = index_.trailer;
  if (index_.prompt == 0) return "nothing";
  if (found.prefill_end == 0) {
    return "the prompt, but only " + std::to_string(index_.num_prefills) + " of " +
           std::to_string(header_.geometry.num_layers()) + " layers of the prefill";
  }
  return "the prefill and " + std::to_string(found.num_steps) + " whole steps";
}

bool Walker::end_early(const std::string& what) {
  if (index_.prompt == 0) {
    throw_corrupt(source_.path().string() + ": the file ends within its " +
                  (previous_ ? "PROMPT" : "META") + ": nothing can be read");
  }
  index_.truncation = what + " at byte " + std::to_string(position_) + "; it holds " + progress();
  return false;
}

bool Walker::zeros_from(std::uint64_t offset) {
  while (offset < source_.size()) {
    const auto part = std::span(chunk_).subspan(
        0, std::min<std::uint64_t>(chunk_.size(), source_.size() - offset));
    source_.read(offset, part);
    if (!all_zero(part)) return false;
    offset += part.size();
  }
  return true;
}

// True when another record may follow.
bool Walker::step() {
  const std::uint64_t rest = source_.size() - position_;
  if (rest == 0) return end_early("the file ends without SUMMARY and TRAILER");
  if (rest < kRecordHeaderBytes) return end_early("the file ends within a record header");
  const std::optional<RecordHeader> record = source_.try_read_header(position_);
  if (!record) {
    if (zeros_from(position_)) return end_early("the file holds only zeros from the record");
    source_.throw_damaged_at(position_,
                             "the header of record " + std::to_string(sequence_) + " (" +
                                 (previous_ ? "after " + progress() : std::string("META")) +
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
    if (!may_be_torn || !zeros_from(end)) source_.throw_damaged(*record, problem);
    return end_early(describe_record(*record) + " is torn (" + problem + ")");
  }
  check_content(*record);
  note(*record);
  previous_ = record->type;
  position_ = end;
  ++sequence_;
  return record->type != RecordType::kTrailer;
}

void Walker::check_after(const RecordHeader& record, bool allowed, const char* rule) const {
  if (!allowed) source_.throw_damaged(record, std::string("out of order: ") + rule);
}

void Walker::check_order(const RecordHeader& record) {
  if (record.sequence != sequence_) {
    source_.throw_damaged(record, "sequence number " + std::to_string(record.sequence) +
                                      ", expected " + std::to_string(sequence_));
  }
  const Trailer& found = index_.trailer;
  const bool final_only = header_.save_mode == SaveMode::kFinalOnly;
  const std::uint64_t layers = header_.geometry.num_layers();
  const bool ended = found.prefill_end != 0;
  const bool summed = found.summary != 0;
  switch (record.type) {
    case RecordType::kMeta: return check_after(record, sequence_ == 0, "META is the first record");
    case RecordType::kPrompt:
      return check_after(record, sequence_ == 1, "PROMPT is the second record");
    case RecordType::kPrefill:
      return check_after(record,
                         sequence_ >= 2 && !final_only && !ended &&
                             record.index == index_.num_prefills && record.index < layers &&
                             (record.index == 0 || previous_ == RecordType::kPrefill),
                         "PREFILL records follow the prompt, layer by layer");
    case RecordType::kPrefillEnd:
      return check_after(
          record, sequence_ >= 2 && !ended && index_.num_prefills == (final_only ? 0 : layers),
          "PREFILL_END follows the prompt's last layer");
    case RecordType::kStep:
      return check_after(record,
                         ended && !summed && index_.num_finals == 0 && record.index < kMaxSteps &&
                             record.index == found.num_steps &&
                             (record.index == 0 || previous_ == RecordType::kStep),
                         "STEP records follow the prefill, one after the other");
    case RecordType::kFinal:
      return check_after(record,
                         final_only && ended && !summed && record.index == index_.num_finals &&
                             record.index < layers &&
                             (record.index == 0 || previous_ == RecordType::kFinal),
                         "FINAL records follow the steps, layer by layer");
    case RecordType::kSummary:
      return check_after(record, ended && !summed && index_.num_finals == (final_only ? layers : 0),
                         "SUMMARY follows the last step or final layer");
    case RecordType::kTrailer: return check_after(record, summed, "TRAILER follows SUMMARY");
    // Optional, as any type that a later version adds.
    case RecordType::kChecksums: break;
  }
  check_after(record, sequence_ >= 2, "META and PROMPT are the first records");
}

void Walker::check_size(const RecordHeader& record) const {
  const bool known =
      static_cast<std::uint16_t>(record.type) >= 1 && record.type <= RecordType::kTrailer;
  if (known) source_.check_codec(record);
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
    const auto stats =
        decode_stats(header_, std::span(head_).subspan(0, stats_block_bytes(header_.top_k)));
    if (!stats) source_.throw_damaged(record, "the statistics' checksum or top-k is wrong");
    const std::string problem =
        stats_problem(header_, *stats, record.type == RecordType::kPrefillEnd);
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
  expected.num_records = sequence_ + 1;
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
