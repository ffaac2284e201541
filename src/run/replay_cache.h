// Which cache a replay runs.
#pragma once

#include <optional>

#include "kvtool/cache/cache_spec.h"
#include "run/reference/reference_entry.h"

namespace kvtool::run {

// The one that was asked for, else the one that made the recording: as the batch's shape, a
// cache belongs to what is replayed. Error kIncompatible where the recording names one that
// there is not.
[[nodiscard]] cache::CacheSpec replay_cache(const std::optional<cache::CacheSpec>& asked,
                                            const ReferenceEntry& entry);

}  // namespace kvtool::run
