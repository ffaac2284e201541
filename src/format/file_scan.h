// Goes over all records of one file without stopping at damage. The map part
// (next) follows record headers, skips over runs of steps, and finds its way
// back behind a damaged header; the check part reads payloads and may run in
// several threads. Both together see what record_walk.h sees, and more.
//
// A packed file is scanned as its original: offsets are the original's. Behind that its
// packed records are checked as they are stored.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "header_codec.h"
#include "kvtool/base/file.h"
#include "packed_file.h"
#include "read_block.h"
#include "record_codec.h"
#include "record_source.h"

namespace kvtool::format {

enum class Fault : std::uint8_t {
  kHeaderLost,  // nothing says what stands here but its place
  kPayload,     // a checksum, or padding that is not zero
  kMeaning,     // right checksums, impossible content
  kUnpacking,   // some of its bytes cannot be unpacked
  kStored,      // of a packed record, whose offset is that in the packed file
};

struct BadRecord {
  // Type 0: nobody knows what stood here.
  RecordHeader record;
  std::uint64_t bytes = 0;  // of the place, header and padding included
  std::string problem;
  Fault fault = Fault::kMeaning;
};

// A record, or `count` STEPs one behind the other.
struct ScanTask {
  RecordHeader first;
  std::uint64_t count = 1;
  std::uint64_t bytes = 0;
  bool stored = false;  // a packed record, as it is stored
};

// Reads a file in blocks. One for each thread and task.
class BlockReader {
 public:
  // `buffer` has a multiple of kRecordAlignment bytes and outlives the reader.
  BlockReader(const RecordSource& source, ReadBlock& buffer);

  // Error kCorrupt where the file has no such bytes, since damaged records may ask for any.

  // At least one and at most `bytes` bytes from `offset` on.
  [[nodiscard]] std::span<const std::byte> some(std::uint64_t offset, std::uint64_t bytes);
  // Exactly `bytes`, at most a buffer.
  [[nodiscard]] std::span<const std::byte> all(std::uint64_t offset, std::uint64_t bytes);
  // Checksum over any length.
  [[nodiscard]] std::uint64_t checksum_of(std::uint64_t offset, std::uint64_t bytes);
  [[nodiscard]] bool is_zero(std::uint64_t offset, std::uint64_t bytes);

 private:
  void require(std::uint64_t offset, std::uint64_t bytes) const;
  void fill(std::uint64_t offset);

  const RecordSource& source_;
  ReadBlock& buffer_;
  std::uint64_t start_ = 0;
  std::uint64_t filled_ = 0;
};
[[nodiscard]] ReadBlock make_block();

// What a finished scan knows. Steps are not listed: step s is at first_step + s * stride.
struct ScanResult {
  // Everything but STEP, by type and index; whole records with an intact header.
  std::map<std::pair<RecordType, std::uint64_t>, RecordHeader> records;
  std::vector<BadRecord> bad;  // by offset
  // Of a packed file, by offset in it: what harms no record of the original, and what has none.
  std::vector<PackedFault> stored_bad;
  std::uint64_t first_step = 0;
  std::uint64_t num_steps = 0;     // whole ones, damaged ones included
  std::uint64_t intact_steps = 0;  // before the first bad one, 0 without the whole prefill
  std::uint64_t num_records = 0;
  std::uint64_t unknown_records = 0;
  bool complete = false;
  std::string truncation;  // as RecordIndex::truncation

  // Types and indexes of the bad records that are no STEPs.
  std::set<std::pair<RecordType, std::uint64_t>> bad_keys;

  // The intact record of this type and index, or null.
  [[nodiscard]] const RecordHeader* find(RecordType type, std::uint64_t index = 0) const;
};

class FileScan {
 public:
  // `threads` will call check() at a time. Error kCorrupt or kIncompatible when the file
  // header cannot be read.
  FileScan(FileSystem& files, const std::filesystem::path& path, unsigned threads);

  [[nodiscard]] const RecordSource& source() const { return source_; }
  // Null when the file is not packed.
  [[nodiscard]] const PackedFile* packed() const { return packed_; }
  // Of the file as it is stored.
  [[nodiscard]] std::uint64_t stored_bytes() const {
    return packed_ != nullptr ? packed_->packed_bytes() : source_.size();
  }
  // What the task is of them: for progress, so that packed files do not count as what they hold.
  [[nodiscard]] std::uint64_t stored_share(const ScanTask& task) const;
  // Why these bytes, which have been read, are not the original's; empty when they are.
  [[nodiscard]] std::optional<std::string> unpacking_problem(std::uint64_t offset,
                                                             std::uint64_t bytes) const {
    return packed_ != nullptr ? packed_->damage().find(offset, bytes) : std::nullopt;
  }
  [[nodiscard]] const RecordingHeader& header() const { return header_; }
  [[nodiscard]] std::uint64_t first_record() const { return first_record_; }

  // What is to be checked next; empty at the end. One thread at a time.
  [[nodiscard]] std::optional<ScanTask> next();
  // Reads the task's payloads. Any thread.
  [[nodiscard]] std::vector<BadRecord> check(const ScanTask& task, ReadBlock& buffer) const;
  // Takes what check() found. One thread at a time.
  void add(std::vector<BadRecord> bad);
  // Once, after all tasks. Error kCorrupt when the file ends before its prompt does.
  [[nodiscard]] ScanResult finish();

 private:
  explicit FileScan(OpenedRecording opened);
  FileScan(OpenedRecording&& opened, DecodedHeader decoded);

  [[nodiscard]] std::optional<ScanTask> next_record();
  void take_stored_faults();
  [[nodiscard]] std::optional<RecordHeader> header_at(std::uint64_t offset, std::string& problem);
  [[nodiscard]] std::string shape_problem(const RecordHeader& record) const;
  [[nodiscard]] std::string order_problem(const RecordHeader& record) const;
  [[nodiscard]] std::optional<ScanTask> accept(const RecordHeader& record);
  [[nodiscard]] std::uint64_t steps_from(const RecordHeader& first);
  void stop(std::string truncation);
  void lose(const std::string& problem);
  [[nodiscard]] bool ends_steps(const RecordHeader& record) const;
  [[nodiscard]] bool holds_statistics(std::uint64_t steps);
  void lose_steps(std::uint64_t first, std::uint64_t count, const std::string& problem);
  [[nodiscard]] std::optional<RecordHeader> find_next(std::uint64_t from);
  [[nodiscard]] RecordHeader after_previous() const;
  [[nodiscard]] std::string progress() const;
  void take_torn_tail();
  void check_trailer();
  void count_intact_steps();

  [[nodiscard]] bool is_step(std::span<const std::byte> bytes, const RecordHeader& expected,
                             RecordHeader& found) const;
  [[nodiscard]] std::optional<BadRecord> check_record(const RecordHeader& expected, bool mapped,
                                                      BlockReader& reader) const;
  [[nodiscard]] static std::string payload_problem(const RecordHeader& record, BlockReader& reader);
  [[nodiscard]] std::string content_problem(const RecordHeader& record, BlockReader& reader) const;
  [[nodiscard]] RecordHeader step_header(const ScanTask& task, std::uint64_t number) const;

  RecordSource source_;
  const PackedFile* packed_;  // in source_
  std::size_t next_stored_ = 0;
  std::vector<BadRecord> stored_bad_;
  RecordingHeader header_;
  std::uint64_t first_record_;
  std::uint64_t uuid_low_;

  ReadBlock block_;
  std::uint64_t position_;
  std::uint64_t sequence_ = 0;
  std::optional<RecordHeader> previous_;        // of any type
  std::optional<RecordHeader> previous_known_;  // of a type that this version orders
  bool gap_ = false;                            // the record before position_ was lost
  bool unsure_ = false;                         // one behind previous_known_ was
  bool stopped_ = false;
  ScanResult result_;
};

// The whole scan in one thread.
[[nodiscard]] ScanResult scan_file(FileScan& scan);

}  // namespace kvtool::format
