// Runs a list of generations under several ways to keep K/V, at several context lengths, each a
// number of times, and puts latency, memory and traffic of each beside its quality: what a replay
// of the baseline's tokens under the same cache says. docs/experiment.md says what every figure
// means.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/cache/cache_use.h"
#include "kvtool/run/lab_quality.h"
#include "kvtool/run/observer.h"
#include "kvtool/run/request.h"
#include "kvtool/run/services.h"

namespace kvtool::run {

struct ExperimentMode {
  std::string_view name;
  std::string_view summary;
};
// Any other mode is the spec of a cache (cache/cache_spec.h).
inline constexpr std::array kExperimentModes = {
    ExperimentMode{"baseline", "everything in one buffer (contiguous)"},
    ExperimentMode{"reactive", "pages, fetched when a step needs them (paged, lru, quest)"},
    ExperimentMode{"predictive", "the same, and some fetched ahead (paged, predictive, quest)"},
    ExperimentMode{"window", "sinks and as many recent positions as those pages hold (window)"},
    ExperimentMode{"quantized", "old rows in 4 bits (kivi)"},
};
inline constexpr std::string_view kBaselineMode = "baseline";

// One entry of a list of experiments: what runs at each of its contexts.
struct ExperimentSettings {
  std::string mode = std::string(kBaselineMode);
  // An exported file, an id that has one, or the folder of a checkpoint, which is exported first.
  std::string model;
  std::string dtype = "bfloat16";  // of such an export
  std::vector<std::uint64_t> contexts = {512};
  std::uint64_t runs = 3;
  std::uint64_t max_new_tokens = 32;
  std::uint64_t page_size = 16;         // positions
  std::uint64_t max_device_pages = 16;  // of a layer and input
  std::uint64_t prefetch_k = 4;
  std::uint64_t batch_size = 1;
};

struct ExperimentRequest {
  // Device, prompts and config_folder of it. kv_cache and models stay empty.
  Request run;
  std::vector<ExperimentSettings> experiments;  // at least one
  std::filesystem::path text;  // whose tokens the prompts are; empty: run.prompts, or ids by a rule
  std::string folder = "experiments/{timestamp}";
  // Goes on in that folder, the newest where it has a {timestamp}: runs that stand there, complete
  // and with equal settings, are not repeated.
  bool resume = false;
};

// Of one figure over several runs.
struct Spread {
  std::size_t count = 0;
  double mean = 0.0;
  double median = 0.0;  // lower
  double least = 0.0;
  double most = 0.0;
  double deviation = 0.0;  // of a sample; 0 of one
};
// Nothing of no values.
[[nodiscard]] std::optional<Spread> spread_of(std::vector<double> values);

// One generation.
struct ExperimentRun {
  std::uint64_t number = 1;  // of Experiment::settings.runs
  double first_token_ms = 0.0;
  std::vector<double> step_ms = {};  // of each later token
  double total_ms = 0.0;
  std::uint64_t rows = 1;
  cache::CacheUse use = {};

  // Of all rows together, while they are decoded.
  [[nodiscard]] double tokens_per_second() const;
  [[nodiscard]] double per_token_ms() const;  // lower median
  // Of the time in which tokens were decoded, that in which steps waited for pages; nothing where
  // the cache has no pages that move, or nobody measured it.
  [[nodiscard]] std::optional<double> stall_share() const;
};

// The most that it had on the device itself, without host memory.
[[nodiscard]] std::uint64_t device_peak_bytes(const cache::CacheUse& use);
// One entry at one context.
struct Experiment {
  std::size_t entry = 1;  // in the list, from 1
  ExperimentSettings settings;
  std::string spec;  // of the cache
  std::string model_id;
  std::string model_slug;
  std::uint64_t asked_context = 0;
  std::uint64_t context = 0;  // smaller where the model has too few positions
  std::string failure;        // not empty: it failed, and why
  std::string idle;           // not empty: the policy did nothing, and why that is known
  std::string unjudged;       // not empty: there is no quality, and why
  LabQuality quality;         // of the baseline's tokens, replayed under this cache
  std::optional<double> read_bytes_per_step;
  std::vector<ExperimentRun> runs;  // that were done
  std::uint64_t resumed = 0;        // of them, those of an earlier command

  [[nodiscard]] bool shortened() const { return context < asked_context; }
  [[nodiscard]] bool is_baseline() const { return settings.mode == kBaselineMode; }
  // All of its runs are done.
  [[nodiscard]] bool succeeded() const { return failure.empty() && runs.size() == settings.runs; }
  // It ran, and its policy acted, and its quality is known: what is measured may be claimed.
  [[nodiscard]] bool counts() const {
    return succeeded() && idle.empty() && unjudged.empty() && !is_baseline();
  }
};

// All experiments of one mode.
struct ModeSummary {
  std::string mode;
  std::size_t experiments = 0;
  std::size_t successful = 0;
  std::size_t acted = 0;  // of those
  // Over all runs of the successful ones.
  std::optional<Spread> latency_ms, first_token_ms, per_token_ms, tokens_per_second;
  std::optional<Spread> peak_bytes, moved_bytes;
  // cache::PageTraffic: hit_rate(), inner_hit_rate(), precision(); and stall_share().
  std::optional<Spread> hit_rate, inner_hit_rate, prediction_accuracy, stall_share;
  LabQuality quality;  // counts, agreement and KL alone, pooled
};

// One mode against the baselines of the same model, context, batch and number of tokens.
struct ModeComparison {
  std::string mode;
  std::string missing;  // not empty: nothing is compared, and why
  // Of each pair, by the medians of both.
  std::optional<Spread> latency_speedup_percent, throughput_speedup_percent, memory_saving_percent;
  // In no pair do the ranges of the runs' latencies part.
  bool within_spread = false;
  LabQuality quality;  // as of ModeSummary, of these pairs
};

struct ExperimentResult {
  std::filesystem::path folder;
  std::string created_utc;
  std::string device;
  std::string prompts;  // where they come from, in words
  std::vector<Experiment> experiments;
  double seconds = 0.0;
  bool interrupted = false;
  std::vector<std::string> notes;

  [[nodiscard]] std::size_t successful() const;
  [[nodiscard]] std::vector<ModeSummary> modes() const;  // in the order in which they came first
  [[nodiscard]] std::vector<ModeComparison> comparisons() const;  // of modes but the baseline
  // The baseline that `experiment` is compared with; null where there is none that succeeded.
  [[nodiscard]] const Experiment* baseline_of(const Experiment& experiment) const;
};

// "baseline_1_ctx512_run2.json", after the mode, the entry, the context and the run.
[[nodiscard]] std::string experiment_file_name(const Experiment& experiment, std::uint64_t run);
// What experiment_summary.json holds.
[[nodiscard]] nlohmann::ordered_json experiment_summary(const ExperimentResult& result);

// The folder that such a command writes to; it is made. Errors as run_experiments() before anything
// runs.
[[nodiscard]] std::filesystem::path make_experiment_folder(const ExperimentRequest& request,
                                                           const Services& services);

// Writes a file for each run and the summary into `folder`, and tells device, models and the
// result. An experiment that fails says why, and the others go on; its Error is thrown at the end.
// Interrupted after a stop, once the result has been told. Error kUsage before anything runs for
// settings that cannot be.
ExperimentResult run_experiments(const ExperimentRequest& request,
                                 const std::filesystem::path& folder, const Services& services,
                                 Observer& observer);

}  // namespace kvtool::run
