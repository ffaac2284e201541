#include "task_check.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "bounded_json.h"
#include "bytes.h"
#include "format/records/block_reader.h"
#include "kvtool/base/error.h"
#include "layout.h"

namespace kvtool::format {
namespace {

class TaskCheck {
 public:
  TaskCheck(const FileScan& scan, ReadBlock& buffer)
      : scan_(scan), header_(scan.header()), reader_(scan.source(), buffer) {}

  std::vector<BadRecord> run(const ScanTask& task);

 private:
  [[nodiscard]] RecordHeader step_header(const ScanTask& task, std::uint64_t number) const;
  [[nodiscard]] static bool is_step(std::span<const std::byte> bytes, const RecordHeader& expected,
                                    RecordHeader& found);
  [[nodiscard]] std::optional<BadRecord> check_record(const RecordHeader& expected, bool mapped);
  [[nodiscard]] std::string payload_problem(const RecordHeader& record);
  [[nodiscard]] std::string content_problem(const RecordHeader& record);
  [[nodiscard]] std::string json_problem(const RecordHeader& record);

  const FileScan& scan_;
  const RecordingHeader& header_;
  BlockReader reader_;
};

RecordHeader TaskCheck::step_header(const ScanTask& task, std::uint64_t number) const {
  RecordHeader header = task.first;
  header.index += number;
  header.sequence += static_cast<std::uint32_t>(number);
  header.offset += number * step_stride_bytes(header_);
  return header;
}

std::vector<BadRecord> TaskCheck::run(const ScanTask& task) {
  std::vector<BadRecord> found;
  for (std::uint64_t i = 0; i < task.count; ++i) {
    const RecordHeader record = step_header(task, i);
    try {
      if (auto bad = check_record(record, i == 0)) found.push_back(*std::move(bad));
    } catch (const Error& error) {
      // A place that the disk cannot read any more; the others may still be fine.
      found.push_back(bad_record(record, error.what(), Fault::kPayload));
    }
  }
  return found;
}

bool TaskCheck::is_step(std::span<const std::byte> bytes, const RecordHeader& expected,
                        RecordHeader& found) {
  const auto header = decode_record_header(bytes);
  if (!header) return false;
  found = *header;
  return found.type == expected.type && found.index == expected.index &&
         found.sequence == expected.sequence && found.offset == expected.offset &&
         found.uuid_low == expected.uuid_low && found.codec == expected.codec &&
         found.stored_bytes == expected.stored_bytes && found.raw_bytes == expected.raw_bytes;
}

// `mapped`: the map has read the record's header.
std::optional<BadRecord> TaskCheck::check_record(const RecordHeader& expected, bool mapped) {
  RecordHeader record = expected;
  if (!mapped && !is_step(reader_.all(expected.offset, kRecordHeaderBytes), expected, record)) {
    const bool moved = record.offset != expected.offset || record.uuid_low != expected.uuid_low;
    return bad_record(expected,
                      moved ? describe_record(record) + " stands here, from another place or file"
                            : kHeaderChecksumProblem,
                      Fault::kHeaderLost);
  }
  std::string problem = payload_problem(record);
  // Nothing that could not be unpacked counts as intact, whatever its checksum says.
  if (auto unread = scan_.unpacking_problem(record.offset, record_bytes(record.stored_bytes))) {
    return bad_record(record, *std::move(unread), Fault::kUnpacking);
  }
  if (!problem.empty()) return bad_record(record, problem, Fault::kPayload);
  problem = content_problem(record);
  if (!problem.empty()) return bad_record(record, problem, Fault::kMeaning);
  return std::nullopt;
}

std::string TaskCheck::payload_problem(const RecordHeader& record) {
  const std::uint64_t start = record.offset + kRecordHeaderBytes;
  if (reader_.checksum_of(start, record.stored_bytes) != record.payload_checksum) {
    return "the payload's checksum is wrong";
  }
  const std::uint64_t behind =
      record_bytes(record.stored_bytes) - kRecordHeaderBytes - record.stored_bytes;
  if (!reader_.is_zero(start + record.stored_bytes, behind)) {
    return "the padding behind the payload is not zero";
  }
  return "";
}

// What only a damaged or foreign writer can produce under a right checksum.
// Lengths that are wrong have been reported by FileScan::next().
std::string TaskCheck::content_problem(const RecordHeader& record) {
  const std::uint64_t start = record.offset + kRecordHeaderBytes;
  const std::uint64_t stats_bytes = stats_block_bytes(header_);
  switch (record.type) {
    case RecordType::kMeta:
    case RecordType::kSummary:
      return record.stored_bytes > kMaxJsonBytes ? "" : json_problem(record);
    case RecordType::kPrompt:
      for (std::uint64_t at = 0; at + 4 <= record.stored_bytes; at += 4) {
        const auto token = load<std::int32_t>(reader_.all(start + at, 4), 0);
        if (token >= 0 && static_cast<std::uint32_t>(token) < header_.vocab_size) continue;
        return "token " + std::to_string(token) + " at position " + std::to_string(at / 4) +
               " is outside the vocabulary of " + std::to_string(header_.vocab_size);
      }
      return "";
    case RecordType::kPrefillEnd:
    case RecordType::kStep: {
      if (record.stored_bytes < stats_bytes) return "";
      return stats_block_problem(header_, reader_.all(start, stats_bytes),
                                 record.type == RecordType::kPrefillEnd);
    }
    default: return "";
  }
}

std::string TaskCheck::json_problem(const RecordHeader& record) {
  std::string text;
  for (std::uint64_t done = 0; done < record.stored_bytes;) {
    const auto part =
        reader_.some(record.offset + kRecordHeaderBytes + done, record.stored_bytes - done);
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

// Of a packed record, as it is stored.
std::vector<BadRecord> check_stored(const PackedFile& packed, const RecordHeader& record) {
  std::string problem;
  try {
    problem = packed.stored_problem(record);
  } catch (const Error& error) {
    problem = error.what();
  }
  if (problem.empty()) return {};
  return {bad_record(record, problem, Fault::kStored)};
}

}  // namespace

std::vector<BadRecord> check_task(const FileScan& scan, const ScanTask& task, ReadBlock& buffer) {
  if (task.stored) return check_stored(*scan.packed(), task.first);
  return TaskCheck(scan, buffer).run(task);
}

}  // namespace kvtool::format
