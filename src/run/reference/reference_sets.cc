#include "reference_sets.h"

#include <utility>

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/run/generation.h"
#include "run/model_check.h"
#include "select_references.h"

namespace kvtool::run {

std::vector<ReferenceSet> reference_sets(const Request& request, const ReferenceSource& source,
                                         const ReferenceFolder& folder, OpenRecordings& recordings,
                                         Observer& observer) {
  ReferenceSelection selection;
  selection.batch_size = request.from_batch_size;
  selection.batch_sizes = request.batch_sizes;
  if (!source.file) selection.num_inputs = request.request_number;
  std::vector<ReferenceSet> references;
  for (auto& entries : select_references(source, folder, selection, recordings, observer)) {
    ReferenceSet& reference = references.emplace_back();
    reference.batches = plan_batches(entries, request.replay_shape);
    reference.entries = std::move(entries);
  }
  return references;
}

void require_one_source(const Request& request) {
  if (request.from.empty() || !request.prompts_must_match || request.prompts.empty()) return;
  throw_usage(setting("from") + " has its own prompts: give recordings or prompts, not both");
}

void check_belong(const std::vector<ReferenceSet>& references, const engine::Model& model) {
  for (const ReferenceSet& reference : references) {
    for (const ReferenceEntry& entry : reference.entries) {
      (void)check_same_model(identity_of(*entry.recording), identity_of(model.info()),
                             /*allow_different_weights=*/false);
    }
  }
}

void record_reference(Request request, const Services& services,
                      const std::filesystem::path& folder) {
  request.from.clear();
  request.save = true;
  request.base_dir = folder.string();
  request.resume = false;
  request.sync = false;
  request.sync_every_steps = 0;
  Observer nobody;
  static_cast<void>(run_generation(request, services, nobody));
}

Request replay_of_recorded(Request request, const std::filesystem::path& folder) {
  request.from = folder.string();
  request.from_batch_size.reset();
  request.request_number.reset();
  return request;
}

}  // namespace kvtool::run
