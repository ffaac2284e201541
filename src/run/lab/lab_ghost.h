// Pages in a row of the table, and the run that it is held against.
#pragma once

#include <span>

#include "kvtool/cache/cache_spec.h"
#include "kvtool/run/lab.h"
#include "run/trial/trial.h"

namespace kvtool::run {

// Of the batches of `mode`.
[[nodiscard]] LabPaging lab_paging(std::span<const TrialBatch> batches, format::ReplayMode mode);

// Whether pages had to leave the device: else steps waited for none.
[[nodiscard]] bool needs_ghost(const LabRow& row);
// The same policy, with room for everything.
[[nodiscard]] cache::CacheSpec all_resident(const cache::CacheSpec& spec);
// Of the row's trial and the one of all_resident(), and of the latter's time. Where the two saw
// another number of keys there is no ghost.
[[nodiscard]] LabGhost lab_ghost(const Judgement& row, const Judgement& ghost,
                                 format::ReplayMode mode, const LabTime& time);

}  // namespace kvtool::run
