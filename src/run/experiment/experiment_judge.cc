#include "experiment_judge.h"

#include "run/lab/lab_row.h"
#include "run/trial/trial.h"

namespace kvtool::run {

ExperimentJudge::ExperimentJudge(Session& session, const Services& services, const ModelFile& file,
                                 engine::Model& model,
                                 const std::vector<std::vector<std::int32_t>>& prompts,
                                 std::uint64_t max_new_tokens)
    : session_(session),
      services_(services),
      file_(file),
      model_(model),
      prompts_(prompts),
      max_new_tokens_(max_new_tokens) {}

Request ExperimentJudge::recording_request() const {
  Request request = session_.request();
  request.models = {file_.path.string()};
  request.prompts.clear();
  for (const std::vector<std::int32_t>& ids : prompts_) {
    Prompt& prompt = request.prompts.emplace_back();
    prompt.kind = Prompt::Kind::kTokenIds;
    prompt.token_ids = ids;
    prompt.origin = "prompt " + std::to_string(request.prompts.size());
  }
  request.request_number.reset();
  request.batch_sizes = {prompts_.size()};
  request.max_new_tokens = max_new_tokens_;
  request.ignore_eos = true;
  request.kv_cache.reset();
  request.save_mode = format::SaveMode::kDelta;
  return request;
}

void ExperimentJudge::record(const engine::Progress& progress) {
  if (!references_.empty()) return;
  progress(0, max_new_tokens_ - 1);
  const Request request = recording_request();
  folder_.emplace("experiment");
  recordings_.emplace(services_.files);
  record_reference(request, services_, folder_->path());
  const Request replay = replay_of_recorded(request, folder_->path());
  const ReferenceSource source = find_reference(replay.from, replay.ref_dir);
  references_ =
      reference_sets(replay, source, source.folders.front(), *recordings_, session_.observer());
}

void ExperimentJudge::judge(Experiment& experiment, const engine::Progress& progress) const {
  const TrialRunner runner(model_, references_, std::nullopt, session_.device_label(),
                           session_.observer());
  constexpr format::ReplayMode kMode = format::ReplayMode::kForced;
  const Judgement judged = runner.run({.kv_cache = cache::CacheSpec::parse(experiment.spec),
                                       .modes = {kMode},
                                       .refuse_idle = false},
                                      progress);
  LabRow row;
  row.role = experiment.is_baseline() ? LabRole::kFull : LabRole::kPolicy;
  take_batches(judged.batches, kMode, model_.info().geometry, lab_steps(references_), row);
  experiment.quality = lab_quality(judged.figures, kMode);
  experiment.idle = row.idle;
  experiment.read_bytes_per_step = row.bytes.read_bytes_per_step;
}

}  // namespace kvtool::run
