#include "kvtool/run/experiment.h"

#include <fmt/format.h>

#include <new>
#include <utility>

#include "experiment_clock.h"
#include "experiment_files.h"
#include "experiment_judge.h"
#include "experiment_plan.h"
#include "experiment_prompts.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/cache/applied.h"
#include "kvtool/format/digest.h"
#include "run/session.h"
#include "run/shared_engine.h"
#include "run/timed_generation.h"

namespace kvtool::run {
namespace {

using Rows = std::vector<std::vector<std::int32_t>>;

std::string digest_of(const Rows& rows) {
  std::string text;
  for (const std::vector<std::int32_t>& row : rows) {
    for (const std::int32_t id : row) text += std::to_string(id) + " ";
    text += "\n";
  }
  return format::text_digest(text);
}

// A model with what its experiments share.
struct LoadedModel {
  ModelFile file;
  engine::ModelInfo info;
  std::unique_ptr<engine::Model> model;
};

class ExperimentsRun {
 public:
  ExperimentsRun(const ExperimentRequest& request, const std::filesystem::path& folder,
                 const Services& services, Observer& observer)
      : request_(request),
        services_(services),
        observer_(observer),
        plan_(plan_experiments(request.experiments)),
        session_(services_, request_.run, observer) {
    services_.open_engine = share_engine(services.open_engine);
    result_.folder = folder;
    result_.created_utc = utc_iso8601(services.now());
    result_.prompts = prompt_source(request);
  }

  ExperimentResult run() {
    lock_ = services_.files.lock_folder(result_.folder);
    result_.device = session_.device_label();
    clock_.begin(plan_.experiments);
    try {
      for (const ModelExperiments& model : plan_.models) run_model(model);
    } catch (...) {
      if (!services_.stop.stop_requested()) throw;
      result_.interrupted = true;
      tell();
      throw;
    }
    tell();
    if (failure_) throw Error(*failure_);
    session_.finish();
    return std::move(result_);
  }

 private:
  void tell() {
    observer_.progress_done();
    result_.experiments = plan_.experiments;
    result_.seconds = clock_.seconds();
    write_summary(result_);
    observer_.experiments(result_);
  }

  void run_model(const ModelExperiments& planned) {
    LoadedModel loaded;
    std::optional<ExperimentPrompts> prompts;
    const auto load = [&] {
      loaded.file = model_file(planned);
      loaded.info = session_.engine().read_model_info(loaded.file.path.string());
      prompts.emplace(request_, loaded.file, loaded.info, services_);
      loaded.model = session_.load_model(loaded.file);
    };
    const std::optional<Error> error = error_of(load);
    for (const ExperimentGroup& group : planned.groups) {
      if (error) {
        for (const std::size_t index : group.experiments) fail(plan_.experiments[index], *error);
      } else {
        run_group(group, loaded, *prompts);
      }
    }
  }

  [[nodiscard]] ModelFile model_file(const ModelExperiments& planned) {
    const std::filesystem::path& folder = request_.run.config_folder;
    const std::string& given = planned.model;
    if (!is_checkpoint_folder(given)) return resolve_model(given, folder);
    const std::optional<Error> missing = error_of([&] { (void)resolve_model(given, folder); });
    if (missing) {
      observer_.log(LogLevel::kInfo, "exporting the checkpoint " + given);
      if (!services_.exporter) throw Error(*missing);
      const std::size_t first = planned.groups.front().experiments.front();
      export_checkpoint(given, plan_.experiments[first].settings.dtype, services_.exporter);
    }
    return resolve_model(given, folder);
  }

  // What makes an experiment a failed one, and lets the others go on.
  template <typename Body>
  std::optional<Error> error_of(const Body& body) {
    try {
      body();
      return std::nullopt;
    } catch (const Error& error) {
      services_.stop.throw_if_requested();
      if (error.code() == ErrorCode::kInternal || error.code() == ErrorCode::kMisuse) throw;
      return error;
    } catch (const std::bad_alloc&) {
      return Error(ErrorCode::kEnvironment, "out of memory");
    }
  }

  void fail(Experiment& experiment, const Error& error) {
    experiment.failure = unmarked(error.message());
    observer_.log(LogLevel::kWarning,
                  fmt::format("experiment {} ({} at {}) failed: {}", experiment.entry,
                              experiment.settings.mode, experiment.asked_context, error.message()));
    if (!failure_) {
      failure_ = Error(error.code(), fmt::format("experiment {} ({} at {}): {}", experiment.entry,
                                                 experiment.settings.mode, experiment.asked_context,
                                                 error.message()));
    }
    clock_.skip(experiment);
  }

  void run_group(const ExperimentGroup& group, LoadedModel& loaded,
                 const ExperimentPrompts& prompts) {
    Rows rows;
    std::uint64_t context = 0;
    const std::optional<Error> error = error_of([&] {
      context = fitting_context(group.context, group.max_new_tokens, loaded.info);
      rows = prompts.rows(context, group.batch_size);
    });
    // Recorded when the first experiment needs it, and gone with the group.
    ExperimentJudge judge(session_, services_, loaded.file, *loaded.model, rows,
                          group.max_new_tokens);
    for (const std::size_t index : group.experiments) {
      Experiment& experiment = plan_.experiments[index];
      experiment.model_id = loaded.info.model_id;
      experiment.model_slug = loaded.info.slug;
      if (error) {
        fail(experiment, *error);
        continue;
      }
      experiment.context = context;
      run_experiment(experiment, loaded, rows, judge);
    }
  }

  [[nodiscard]] RunSettings settings_of(const Experiment& experiment, const LoadedModel& loaded,
                                        const Rows& rows) {
    return {.mode = experiment.settings.mode,
            .spec = experiment.spec,
            .model_id = loaded.info.model_id,
            .weights_sha256 = format::to_hex(loaded.info.weights_sha256),
            .prompts = result_.prompts,
            .prompt_digest = digest_of(rows),
            .asked_context = experiment.asked_context,
            .context = experiment.context,
            .batch_size = experiment.settings.batch_size,
            .max_new_tokens = experiment.settings.max_new_tokens,
            .device = session_.device_label(),
            .cpu_isa = request_.run.cpu_isa,
            .threads = static_cast<std::uint64_t>(request_.run.threads)};
  }

  void run_experiment(Experiment& experiment, LoadedModel& loaded, const Rows& rows,
                      ExperimentJudge& judge) {
    const RunSettings settings = settings_of(experiment, loaded, rows);
    std::vector<std::uint64_t> missing;
    for (std::uint64_t number = 1; number <= experiment.settings.runs; ++number) {
      std::optional<ExperimentRun> kept;
      if (request_.resume) kept = read_run(result_.folder, settings, number, experiment);
      if (kept) {
        experiment.runs.push_back(std::move(*kept));
      } else {
        missing.push_back(number);
      }
    }
    experiment.resumed = experiment.runs.size();
    if (missing.empty()) return clock_.skip(experiment);
    std::uint64_t at = missing.front();
    const std::optional<Error> error = error_of([&] {
      if (experiment.resumed == 0) judge_quality(experiment, judge);
      for (const std::uint64_t number : missing) {
        at = number;
        ExperimentRun run = generate(experiment, number, loaded, rows);
        write_run(result_.folder, settings, experiment, run, utc_iso8601(services_.now()));
        experiment.runs.push_back(std::move(run));
      }
    });
    if (!error) return;
    fail(experiment, *error);
    write_run(result_.folder, settings, experiment, {.number = at}, utc_iso8601(services_.now()));
  }

  // A policy runs even where there is nothing to compare it with, but nothing is then claimed.
  void judge_quality(Experiment& experiment, ExperimentJudge& judge) {
    if (judge.failure().empty()) {
      const std::optional<Error> error = error_of([&] {
        judge.record(clock_.progress(observer_, services_.stop, experiment, "recording"));
      });
      if (error) judge.give_up(unmarked(error->message()));
    }
    experiment.unjudged = judge.failure();
    if (experiment.unjudged.empty()) {
      judge.judge(experiment, clock_.progress(observer_, services_.stop, experiment, "replay"));
    }
    clock_.finish_part(experiment);
  }

  ExperimentRun generate(Experiment& experiment, std::uint64_t number, LoadedModel& loaded,
                         const Rows& rows) {
    std::vector<engine::Input> inputs;
    for (const std::vector<std::int32_t>& row : rows) inputs.push_back({row});
    const cache::CacheSpec spec = cache::CacheSpec::parse(experiment.spec);
    const std::uint64_t new_tokens = experiment.settings.max_new_tokens;
    const TimedGeneration timed = time_generation(
        *loaded.model, inputs,
        {.max_new_tokens = new_tokens,
         .ignore_eos = true,
         .top_k = 1,
         .logits_sample = 0,
         .kv_cache = spec},
        {},
        clock_.progress(observer_, services_.stop, experiment,
                        fmt::format("run {}/{}", number, experiment.settings.runs)));
    const cache::CacheUse& use = timed.result.cache_use;
    const std::uint64_t positions = experiment.context + new_tokens - 1;
    const std::optional<std::string> idle =
        cache::not_applied(spec,
                           {.geometry = loaded.info.geometry,
                            .positions = positions,
                            .steps = timed.result.timing.decode_steps,
                            .rows = rows.size(),
                            .capacity = positions},
                           use);
    if (idle && experiment.idle.empty()) experiment.idle = *idle;
    clock_.finish_part(experiment);
    return {.number = number,
            .first_token_ms = timed.first_ms,
            .step_ms = timed.following_ms,
            .total_ms = timed.total_ms(),
            .rows = rows.size(),
            .use = use};
  }

  const ExperimentRequest& request_;
  Services services_;  // a copy, whose engine is shared
  Observer& observer_;
  ExperimentPlan plan_;
  Session session_;
  std::unique_ptr<FolderLock> lock_;
  ExperimentClock clock_;
  ExperimentResult result_;
  std::optional<Error> failure_;
};

}  // namespace

std::filesystem::path make_experiment_folder(const ExperimentRequest& request,
                                             const Services& services) {
  static_cast<void>(plan_experiments(request.experiments));  // what cannot run makes no folder
  const std::optional<std::filesystem::path> newest =
      request.resume ? newest_output_folder(request.folder) : std::nullopt;
  const std::filesystem::path folder =
      newest ? *newest : expand_output_pattern(request.folder, services.now());
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw_environment(folder.string() + ": " + error.message());
  return folder;
}

ExperimentResult run_experiments(const ExperimentRequest& request,
                                 const std::filesystem::path& folder, const Services& services,
                                 Observer& observer) {
  return ExperimentsRun(request, folder, services, observer).run();
}

}  // namespace kvtool::run
