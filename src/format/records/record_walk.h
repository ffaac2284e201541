// Walks a recording's records from the first to the last: how a file without a
// trailer is indexed, and how every byte of any file is verified.
//
// What ends a walk early (docs/format.md, "Truncated or damaged"):
//  - fewer bytes than a record header or than the record that it announces;
//  - zeros from a record's start to the end of the file: space that a crashed
//    machine reserved and never wrote;
//  - a wrong payload with nothing, or nothing but zeros, behind it: the last
//    append, torn by a crash.
// Everything else that is not a valid next record is damage.
#pragma once

#include <cstdint>

#include "kvtool/format/recording.h"
#include "record_index.h"
#include "record_source.h"

namespace kvtool::format {

enum class WalkDepth {
  kIndex,       // payloads of PREFILL and FINAL are left to those who read them
  kEverything,  // every payload
};

// `first_record` is where the file header ends. Error kCorrupt for damage.
[[nodiscard]] RecordIndex walk_records(const RecordSource& source, const RecordingHeader& header,
                                       std::uint64_t first_record, WalkDepth depth);

}  // namespace kvtool::format
