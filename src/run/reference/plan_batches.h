// Groups recordings into the batches in which they were recorded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kvtool/run/request.h"
#include "reference_entry.h"

namespace kvtool::run {

struct PlannedRow {
  std::size_t entry = 0;  // index into the entries
  bool stand_in = false;  // takes the place of a recording that is not there
};

struct PlannedBatch {
  std::vector<PlannedRow> rows;  // in recorded order
  std::uint64_t padded_length = 0;
  std::uint64_t cache_capacity = 0;
  std::vector<std::string> missing;  // file names that stand-ins replace
};

// Every batch that holds a selected entry, ordered by its first input.
// Error kCorrupt for two recordings of one row and for rows that disagree
// about the shape of their batch.
[[nodiscard]] std::vector<PlannedBatch> plan_batches(std::span<const ReferenceEntry> entries,
                                                     ReplayShape shape);

}  // namespace kvtool::run
