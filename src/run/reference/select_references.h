// Chooses among the recordings of one model those that a replay runs.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "find_reference.h"
#include "kvtool/run/observer.h"
#include "open_recordings.h"
#include "reference_entry.h"

namespace kvtool::run {

struct ReferenceSelection {
  std::optional<std::uint64_t> batch_size;  // the only one that counts
  std::vector<std::uint64_t> batch_sizes;   // chosen among several
  std::optional<std::uint64_t> num_inputs;  // inputs 0 to num_inputs - 1 must be there
};

// One batch size after the other: the entries of each. Unfinished (.partial)
// files and inputs that were not asked for are entries with selected == false.
// Errors: kUsage for a missing input or an ambiguous batch size, listing what
// there is; kCorrupt for a selected recording that ends before its first token.
// What is left out is told to `observer`.
[[nodiscard]] std::vector<std::vector<ReferenceEntry>> select_references(
    const ReferenceSource& source, const ReferenceFolder& folder,
    const ReferenceSelection& selection, OpenRecordings& recordings, Observer& observer);

}  // namespace kvtool::run
