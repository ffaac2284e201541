// Which record may stand where (docs/format.md, "Records"): one state machine for all that
// goes over the records of a file, whether it stops at damage or goes on behind it.
//
// It knows types, indexes and sequence numbers; lengths, checksums and places are the
// callers' to check.
#pragma once

#include <cstdint>
#include <optional>

#include "record_codec.h"

namespace kvtool::format {

// The type of a record of which nobody knows what it was.
inline constexpr RecordType kNobodyKnows{0};

// Of a type that has its place among the others. CHECKSUMS and types of later versions may
// stand anywhere between PROMPT and TRAILER, but not inside of a run.
[[nodiscard]] bool is_ordered(RecordType type);

class RecordGrammar {
 public:
  explicit RecordGrammar(const RecordingHeader& header);

  enum class Fit {
    kFits,
    kWrongSequence,
    kOutOfOrder,
  };
  // Whether the record may stand behind those that were taken. Behind a gap only what the
  // lost records cannot explain is out of order.
  [[nodiscard]] Fit fit(const RecordHeader& record) const;

  // The record stands there, fitting or not: what follows is judged by it. `count` STEPs one
  // behind the other, of which this is the first.
  void take(const RecordHeader& record, std::uint64_t count = 1);
  // What stands next cannot be read. The next record that can has this sequence number.
  void lose_up_to(std::uint64_t sequence);

  // Of the next record.
  [[nodiscard]] std::uint64_t sequence() const { return sequence_; }
  // The last one taken; empty at the start.
  [[nodiscard]] const std::optional<RecordHeader>& previous() const { return previous_; }

  struct Place {
    RecordType type = kNobodyKnows;
    std::uint64_t index = 0;
  };
  // What probably stands behind previous(): certain where only one record can, STEP where
  // steps may end, kNobodyKnows elsewhere.
  [[nodiscard]] Place expected() const;

  // Where records of this type stand, in words.
  [[nodiscard]] static const char* rule(RecordType type);

 private:
  struct Successors {
    Place next;
    Place end_of_run;  // what may stand in place of `next`
  };
  [[nodiscard]] Successors successors() const;
  [[nodiscard]] bool exists(const RecordHeader& record) const;
  [[nodiscard]] bool in_order(const RecordHeader& record) const;

  std::uint64_t layers_;
  bool final_only_;
  std::uint64_t sequence_ = 0;
  std::optional<RecordHeader> previous_;
  std::optional<RecordHeader> previous_ordered_;
  bool unsure_ = false;  // something behind previous_ordered_ was lost
};

}  // namespace kvtool::format
