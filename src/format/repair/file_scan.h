// Goes over all records of one file without stopping at damage. FileScan follows record
// headers, skips over runs of steps, and finds its way back behind a damaged header;
// task_check.h reads payloads and may run in several threads. Both together see what
// record_walk.h sees, and more.
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

#include "format/packed/packed_file.h"
#include "format/records/header_codec.h"
#include "format/records/read_block.h"
#include "format/records/record_codec.h"
#include "format/records/record_grammar.h"
#include "format/records/record_index.h"
#include "format/records/record_source.h"
#include "kvtool/base/file.h"

namespace kvtool::format {

inline constexpr const char* kHeaderChecksumProblem = "the record header's checksum is wrong";

enum class Fault : std::uint8_t {
  kHeaderLost,  // nothing says what stands here but its place
  kPayload,     // a checksum, or padding that is not zero
  kMeaning,     // right checksums, impossible content
  kUnpacking,   // some of its bytes cannot be unpacked
  kStored,      // of a packed record, whose offset is that in the packed file
};

struct BadRecord {
  // kNobodyKnows: of a record whose header is lost.
  RecordHeader record;
  std::uint64_t bytes = 0;  // of the place, header and padding included
  std::string problem;
  Fault fault = Fault::kMeaning;
};
// Of the length that its header says.
[[nodiscard]] BadRecord bad_record(const RecordHeader& record, std::string problem, Fault fault);

// A record, or `count` STEPs one behind the other.
struct ScanTask {
  RecordHeader first;
  std::uint64_t count = 1;
  std::uint64_t bytes = 0;
  bool stored = false;  // a packed record, as it is stored
};

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
  // `threads` will check tasks at a time. Error kCorrupt or kIncompatible when the file
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

  // What check_task() is to be called with next; empty at the end. One thread at a time.
  [[nodiscard]] std::optional<ScanTask> next();
  // Takes what check_task() found. One thread at a time.
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
  [[nodiscard]] bool is_in_place(const RecordHeader& record) const;
  [[nodiscard]] std::optional<ScanTask> accept(const RecordHeader& record);
  [[nodiscard]] std::uint64_t steps_from(const RecordHeader& first);
  void stop(std::string truncation);
  void lose(const std::string& problem);
  [[nodiscard]] bool ends_steps(const RecordHeader& record) const;
  [[nodiscard]] bool holds_statistics(std::uint64_t steps);
  void lose_steps(std::uint64_t first, std::uint64_t count, const std::string& problem);
  [[nodiscard]] std::optional<RecordHeader> find_next(std::uint64_t from);
  [[nodiscard]] RecordIndex index() const;
  void take_torn_tail();
  void check_trailer();
  void count_intact_steps();

  RecordSource source_;
  const PackedFile* packed_;  // in source_
  std::size_t next_stored_ = 0;
  std::vector<BadRecord> stored_bad_;
  RecordingHeader header_;
  std::uint64_t first_record_;

  ReadBlock block_;
  std::uint64_t position_;
  RecordGrammar grammar_;
  bool stopped_ = false;
  ScanResult result_;
};

}  // namespace kvtool::format
