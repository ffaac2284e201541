// Which cache a replay runs, and what its gate is chosen by.
#pragma once

#include <optional>
#include <string>

#include "kvtool/analysis/gate.h"
#include "kvtool/cache/cache_spec.h"
#include "kvtool/engine/api.h"
#include "run/reference/reference_entry.h"

namespace kvtool::run {

// The one that was asked for, else the one that made the recording: as the batch's shape, a
// cache belongs to what is replayed. Error kIncompatible where the recording names one that
// there is not.
[[nodiscard]] cache::CacheSpec replay_cache(const std::optional<cache::CacheSpec>& asked,
                                            const ReferenceEntry& entry);

// Of a replay of the recording with `model` on the device of this label, with that cache.
[[nodiscard]] analysis::GateContext replay_context(const engine::ModelInfo& model,
                                                   const std::string& device_label,
                                                   const std::optional<cache::CacheSpec>& asked,
                                                   const ReferenceEntry& entry);

}  // namespace kvtool::run
