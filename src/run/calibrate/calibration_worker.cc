#include "kvtool/run/calibration_worker.h"

#include <nlohmann/json.hpp>

#include "kvtool/base/text.h"
#include "run/reference/choose_models.h"
#include "run/reference/find_reference.h"
#include "run/reference/open_recordings.h"
#include "run/reference/reference_sets.h"
#include "run/session.h"
#include "run/trial/trial.h"
#include "worker_messages.h"

namespace kvtool::run {
namespace {

// Every flip whose gap is known is explained, so that the gaps can be measured.
constexpr analysis::FlipBounds kAllExplained{.near_tie_ulps = 1e9, .noise_z = 1e9};

// What passes is decided by who asks, not here.
analysis::GateSpec measuring_gate(const analysis::FlipBounds& bounds) {
  return analysis::GateSpec::parse({{"name", "calibration"},
                                    {"near_tie_ulps", bounds.near_tie_ulps},
                                    {"noise_z", bounds.noise_z}},
                                   "the measuring gate");
}

// Who measured, and what.
class Identity final : public Observer {
 public:
  void device(const DeviceDescription& device) override { device_ = device; }
  void model(const ModelDescription& model) override { model_ = model; }

  [[nodiscard]] const DeviceDescription& device() const { return device_; }
  [[nodiscard]] const ModelDescription& model() const { return model_; }

 private:
  DeviceDescription device_;
  ModelDescription model_;
};

WorkerMeasurement measure(const WorkerTask& task, const Services& services) {
  const Request& request = task.request;
  Identity identity;
  Session session(services, request, identity);
  const ReferenceSource source = find_reference(request.from, request.ref_dir);
  OpenRecordings recordings(services.files);
  const std::vector<ModelFile> files = choose_models(request, source, recordings);
  const ModelFile& file = files.front();
  const std::vector<ReferenceSet> references = reference_sets(
      request, source, folder_of(request.from, source, file, files.size()), recordings, identity);
  const std::unique_ptr<engine::Model> model = session.load_model(file);
  check_belong(references, *model);
  const TrialRunner runner(*model, references,
                           measuring_gate(task.flip_bounds.value_or(kAllExplained)),
                           session.device_label(), identity);
  Judgement judged = runner.run({.kv_cache = request.kv_cache, .modes = request.replay_modes},
                                session.progress("calibration"));
  WorkerMeasurement measured{.figures = std::move(judged.figures),
                             .largest_gap_ulps = judged.largest_gap_ulps,
                             .largest_gap_noise = judged.largest_gap_noise,
                             .most_rows = judged.most_rows,
                             .groups = judged.groups,
                             .cache = judged.caches.front(),
                             .device = identity.device(),
                             .model = identity.model()};
  measured.model.path = valid_utf8(measured.model.path);
  return measured;
}

WorkerAnswer answer(const WorkerTask& task, const Services& services) {
  const Request& request = task.request;
  if (task.action == WorkerAction::kMeasure) {
    return {.error = std::nullopt, .measurement = measure(task, services)};
  }
  record_reference(request, services, request.base_dir);
  return {};
}

}  // namespace

std::string do_worker_task(std::string_view text, const Services& services) {
  const WorkerTask task = parse_task(text);
  try {
    return write_answer(answer(task, services));
  } catch (const Error& error) {
    // The engine may hand on another exception than the one thrown into it.
    services.stop.throw_if_requested();
    return write_answer(
        {.error = WorkerError{.code = error.code(), .message = valid_utf8(error.message())},
         .measurement = std::nullopt});
  }
}

}  // namespace kvtool::run
