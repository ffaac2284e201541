#include "kvtool/run/lab.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "breakeven.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "lab_checks.h"
#include "lab_ghost.h"
#include "lab_pairs.h"
#include "lab_plan.h"
#include "lab_reader.h"
#include "lab_row.h"
#include "noise_floor.h"
#include "run/reference/choose_models.h"
#include "run/reference/open_recordings.h"
#include "run/replay_cache.h"
#include "run/session.h"
#include "sensitivity.h"

namespace kvtool::run {
namespace {

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Forced, and what the gate needs, where nobody chose any.
std::vector<format::ReplayMode> lab_modes(const Request& run, const analysis::Gate& gate) {
  if (!run.replay_modes.empty()) return run.replay_modes;
  std::vector<format::ReplayMode> modes = {format::ReplayMode::kForced};
  if (!run.gate) return modes;
  for (const format::ReplayMode mode : analysis::modes_for(gate)) {
    if (std::ranges::find(modes, mode) == modes.end()) modes.push_back(mode);
  }
  return modes;
}

std::string name_of(const std::string& given, const std::string& budget) {
  return budget.empty() ? given : given + " " + budget;
}

class LabRun {
 public:
  LabRun(const LabRequest& request, const Services& services, Observer& observer)
      : request_(request),
        services_(services),
        observer_(observer),
        plan_(read_lab_plan(request)),
        session_(services, request.run, observer),
        recordings_(services.files) {}

  LabResult run() {
    const ReferenceSource source = find_reference(request_.run.from, request_.run.ref_dir);
    const std::vector<ModelFile> models = choose_models(request_.run, source, recordings_);
    if (models.size() != 1) {
      throw_usage("a lab takes one model, and there are " + std::to_string(models.size()) +
                  ": name it with " + setting("model"));
    }
    folder_ = &folder_of(request_.run.from, source, models.front(), models.size());
    references_ = reference_sets(request_.run, source, *folder_, recordings_, observer_);
    check_one_group();
    steps_ = lab_steps(references_);
    if (steps_.steps == 0) {
      throw_usage(request_.run.from +
                  ": the recordings hold no step to replay; record some with more " +
                  setting("max_new_tokens"));
    }
    const std::vector<PlannedLabRow> planned =
        plan_lab_rows(plan_, request_.controls, lab_lengths(references_));
    model_ = session_.load_model(models.front());
    check_belong(references_, *model_);
    describe();
    total_ = planned.size() + (request_.controls ? 2 : 1);
    std::optional<LabReader> reader;
    if (request_.texts.reads()) reader.emplace(*model_, request_, plan_, services_, references_);
    measure_full();
    if (request_.controls) measure_noise(source);
    for (const PlannedLabRow& row : planned) measure(row);
    if (request_.sensitivity) measure_parts(source);
    if (reader) read_texts(*reader);
    observer_.progress_done();
    set_regrets(result_.rows);
    result_.checks = lab_checks(result_.rows);
    result_.pairs = lab_pairs(result_.rows);
    if (request_.breakeven) result_.breakeven = lab_breakeven(result_.rows);
    observer_.lab(result_);
    if (failure_) throw Error(*failure_);
    session_.finish();
    return std::move(result_);
  }

 private:
  [[nodiscard]] const ReferenceEntry& first_entry() const {
    return references_.front().entries.front();
  }

  // One table cannot stand for several devices.
  void check_one_group() const {
    const ReferenceEntry& first = first_entry();
    for (const ReferenceSet& reference : references_) {
      for (const ReferenceEntry& entry : reference.entries) {
        if (entry.device_label == first.device_label && entry.kv_cache == first.kv_cache) continue;
        throw_usage("a lab takes recordings of one device and one cache: " + first.path.string() +
                    " is of " + first.device_label + " with " + first.kv_cache + ", and " +
                    entry.path.string() + " of " + entry.device_label + " with " + entry.kv_cache +
                    ": name one folder with " + setting("from"));
      }
    }
  }

  void describe() {
    const engine::ModelInfo& info = model_->info();
    result_.model_slug = info.slug;
    result_.model_id = info.model_id;
    result_.dtype = info.dtype;
    result_.from = request_.run.from;
    result_.reference_cache = first_entry().kv_cache;
    result_.inputs = steps_.inputs;
    result_.steps = steps_.steps;
    result_.shortest = steps_.shortest;
    result_.longest = steps_.longest;
    gate_ =
        VerdictBuilder(request_.run.gate)
            .gate_for(replay_context(info, session_.device_label(), std::nullopt, first_entry()));
    modes_ = lab_modes(request_.run, gate_);
    const bool selects = std::ranges::any_of(plan_.policies, &LabPolicy::selects);
    if (selects && steps_.longest != steps_.shortest) {
      result_.notes.push_back(
          fmt::format("inputs have {} to {} positions: what a window shows is a share of the "
                      "longest, and of a shorter one it is more (column \"applied\")",
                      steps_.shortest, steps_.longest));
    }
  }

  LabRow& begin_row(LabRole role, const std::string& given, const std::string& budget) {
    LabRow& row = result_.rows.emplace_back();
    row.role = role;
    row.given = given;
    row.budget = budget;
    row.name = name_of(given, budget);
    row.mode = format::replay_mode_name(lab_mode(modes_));
    for (const format::ReplayMode mode : modes_) {
      row.modes.emplace_back(format::replay_mode_name(mode));
    }
    return row;
  }

  [[nodiscard]] std::string progress_words(const LabRow& row) const {
    return fmt::format("row {}/{}: {}", result_.rows.size(), total_, row.name);
  }

  void measure_full() {
    LabRow& row = begin_row(LabRole::kFull, "full", "");
    replay({}, references_, row);
  }

  void measure_noise(const ReferenceSource& source) {
    LabRow& row = begin_row(LabRole::kNoise, "noise", "");
    observer_.progress(progress_words(row));
    NoiseFloor floor = noise_floor(request_, services_, session_.engine().device().type,
                                   references_, modes_, gate_.flip_bounds);
    services_.stop.throw_if_requested();
    row.note = floor.note;
    row.missing = floor.missing;
    if (floor.figures) {
      row.spec = first_entry().kv_cache;
      row.quality = lab_quality(*floor.figures, lab_mode(modes_));
      judge(*floor.figures, row);
    }
    if (!floor.single_inputs) return;
    Request single = request_.run;
    single.replay_shape = ReplayShape::kSingle;
    replay({}, reference_sets(single, source, *folder_, recordings_, observer_), row);
    row.time = {};
  }

  void measure_parts(const ReferenceSource& source) {
    Request parallel = request_.run;
    parallel.replay_shape = ReplayShape::kParallel;
    const std::vector<ReferenceSet> references =
        reference_sets(parallel, source, *folder_, recordings_, observer_);
    const TrialRunner runner(*model_, references, request_.run.gate, session_.device_label(),
                             observer_);
    const bool injects = lab_mode(modes_) == format::ReplayMode::kInject;
    result_.sensitivity = measure_sensitivity(
        runner, sensitivity_base(plan_.specs()), model_->info().geometry.num_layers(),
        injects ? format::ReplayMode::kInject : format::ReplayMode::kForced,
        [&](const std::string& words) { return session_.progress(words); });
  }

  void read_texts(LabReader& reader) {
    reader.read([&](const std::string& words) { return session_.progress(words); }, result_);
    if (!failure_) failure_ = reader.failure();
  }

  void measure(const PlannedLabRow& planned) {
    LabRow& row = begin_row(planned.role, planned.given, planned.budget);
    row.frame = planned.frame;
    try {
      const Judgement judged = replay(planned.spec, references_, row);
      if (needs_ghost(row)) row.paging.ghost = measure_ghost(planned.spec, judged, row);
    } catch (const Error& error) {
      services_.stop.throw_if_requested();
      row.missing = unmarked(error.message());
      row.spec.clear();
      if (!failure_) failure_ = Error(error.code(), "the row " + row.name + ": " + error.message());
    }
  }

  // No spec: the cache that made the recordings.
  Judgement replay(const std::optional<cache::CacheSpec>& spec,
                   std::span<const ReferenceSet> references, LabRow& row) {
    StepClock clock;
    Judgement judged = run_trial({.kv_cache = spec, .modes = modes_, .refuse_idle = false},
                                 references, progress_words(row), clock);
    const format::ReplayMode mode = lab_mode(modes_);
    row.spec = judged.batches.front().kv_cache.to_string();
    row.quality = lab_quality(judged.figures, mode);
    take_batches(judged.batches, mode, model_->info().geometry, steps_, row);
    for (const InputKl& input : judged.kl) {
      if (input.mode == mode) row.step_kl.push_back(input.steps);
    }
    row.time = lab_time(judged.batches, mode, clock, session_.engine().device().type == "cpu");
    row.paging = lab_paging(judged.batches, mode);
    row.gate = judged.gate;
    row.gate_passed = judged.passed();
    if (!judged.passed()) row.gate_failure = analysis::describe(judged.failed_rules.front());
    if (request_.attention) measure_attention(references, spec, row);
    return judged;
  }

  // In a run of its own: it would be in the times of the other.
  void measure_attention(std::span<const ReferenceSet> references,
                         const std::optional<cache::CacheSpec>& spec, LabRow& row) {
    StepClock unused;
    const Judgement judged = run_trial({.kv_cache = spec,
                                        .modes = {format::ReplayMode::kForced},
                                        .refuse_idle = false,
                                        .measure_attention = true},
                                       references, progress_words(row) + ", attention", unused);
    take_attention(judged.batches, row);
  }

  Judgement run_trial(const Trial& trial, std::span<const ReferenceSet> references,
                      const std::string& words, StepClock& clock) {
    const TrialRunner runner(*model_, references, request_.run.gate, session_.device_label(),
                             observer_);
    const engine::Progress tell = session_.progress(words);
    return runner.run(trial, [&](std::uint64_t done, std::uint64_t total) {
      clock.tell(done, steady_seconds());
      tell(done, total);
    });
  }

  // Of a row whose pages had to leave the device.
  LabGhost measure_ghost(const cache::CacheSpec& spec, const Judgement& paged, const LabRow& row) {
    const format::ReplayMode mode = lab_mode(modes_);
    StepClock clock;
    try {
      const Judgement ghost =
          run_trial({.kv_cache = all_resident(spec), .modes = {mode}, .refuse_idle = false},
                    references_, progress_words(row) + ", all resident", clock);
      const bool step_by_step = session_.engine().device().type == "cpu";
      return lab_ghost(paged, ghost, mode, lab_time(ghost.batches, mode, clock, step_by_step));
    } catch (const Error& error) {
      services_.stop.throw_if_requested();
      LabGhost none;
      none.missing = unmarked(error.message());
      return none;
    }
  }

  void judge(const analysis::Figures& figures, LabRow& row) const {
    const analysis::GateResult result = analysis::evaluate(gate_, figures);
    row.gate = result.gate;
    row.gate_passed = result.passed;
    const auto failed = std::ranges::find(result.rules, false, &analysis::RuleResult::passed);
    if (failed != result.rules.end()) row.gate_failure = analysis::describe(*failed);
  }

  const LabRequest& request_;
  const Services& services_;
  Observer& observer_;
  LabPlan plan_;
  Session session_;
  OpenRecordings recordings_;
  const ReferenceFolder* folder_ = nullptr;
  std::vector<ReferenceSet> references_;
  LabSteps steps_;
  std::unique_ptr<engine::Model> model_;
  analysis::Gate gate_;
  std::vector<format::ReplayMode> modes_;
  std::size_t total_ = 0;
  LabResult result_;
  std::optional<Error> failure_;
};

}  // namespace

LabResult run_lab(const LabRequest& request, const Services& services, Observer& observer) {
  return LabRun(request, services, observer).run();
}

}  // namespace kvtool::run
