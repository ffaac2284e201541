// The recordings that a replay or a trial runs: those that somebody names, or some that are
// made for it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "find_reference.h"
#include "kvtool/engine/api.h"
#include "kvtool/run/observer.h"
#include "kvtool/run/request.h"
#include "kvtool/run/services.h"
#include "open_recordings.h"
#include "plan_batches.h"

namespace kvtool::run {

// Recordings of one batch size.
struct ReferenceSet {
  std::vector<ReferenceEntry> entries;
  std::vector<PlannedBatch> batches;
};

// Those of `folder`, one of the folders in `source`, that the request asks for: a set for each
// batch size, in batches of `request.replay_shape`. Errors as select_references().
[[nodiscard]] std::vector<ReferenceSet> reference_sets(const Request& request,
                                                       const ReferenceSource& source,
                                                       const ReferenceFolder& folder,
                                                       OpenRecordings& recordings,
                                                       Observer& observer);

// Error kUsage where somebody asks for recordings and for prompts: recordings have their own.
void require_one_source(const Request& request);

// Error kIncompatible for a recording of another model, or of other weights.
void check_belong(const std::vector<ReferenceSet>& references, const engine::Model& model);

// Records the request's prompts below `folder`, as any other reference is recorded. Nobody is
// told: what is said of recordings that are kept does not hold for temporary ones. Errors as
// run_generation().
void record_reference(Request request, const Services& services,
                      const std::filesystem::path& folder);
// The request that replays all of what record_reference() made, whatever `request` wants of
// other recordings.
[[nodiscard]] Request replay_of_recorded(Request request, const std::filesystem::path& folder);

}  // namespace kvtool::run
