#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kvtool/analysis/statistics.h"
#include "kvtool/run/experiment.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {
namespace {

constexpr double kTwoSidedLevel = 0.975;
constexpr double kPercentOf = 100.0;
constexpr std::size_t kMaxModeName = 60;

void pool(const LabQuality& one, double& kl_sum, LabQuality& all) {
  all.compared += one.compared;
  all.matches += one.matches;
  all.ties += one.ties;
  all.noise_flips += one.noise_flips;
  all.near_ties += one.near_ties;
  all.hard_flips += one.hard_flips;
  all.nonfinite += one.nonfinite;
  all.kl_is_estimate = all.kl_is_estimate && one.kl_is_estimate;
  if (one.kl_mean) kl_sum += *one.kl_mean * static_cast<double>(one.compared);
}

LabQuality pooled(const std::vector<const Experiment*>& experiments) {
  LabQuality all;
  all.kl_is_estimate = true;
  double kl_sum = 0.0;
  bool all_have_kl = !experiments.empty();
  for (const Experiment* experiment : experiments) {
    pool(experiment->quality, kl_sum, all);
    all_have_kl = all_have_kl && experiment->quality.kl_mean.has_value();
  }
  if (all.compared == 0) return {};
  const auto compared = static_cast<double>(all.compared);
  all.agreement = static_cast<double>(all.matches) / compared;
  all.agreement_low = analysis::clopper_pearson_lower(all.matches, all.compared, kTwoSidedLevel);
  if (const auto low = analysis::clopper_pearson_lower(all.flips(), all.compared, kTwoSidedLevel)) {
    all.agreement_high = 1.0 - *low;
  }
  if (all_have_kl) all.kl_mean = kl_sum / compared;
  return all;
}

std::vector<double> latencies(const Experiment& experiment) {
  std::vector<double> values;
  for (const ExperimentRun& run : experiment.runs) values.push_back(run.total_ms);
  return values;
}

std::vector<double> throughputs(const Experiment& experiment) {
  std::vector<double> values;
  for (const ExperimentRun& run : experiment.runs) values.push_back(run.tokens_per_second());
  return values;
}

std::vector<double> device_peaks(const Experiment& experiment) {
  std::vector<double> values;
  for (const ExperimentRun& run : experiment.runs) {
    values.push_back(static_cast<double>(device_peak_bytes(run.use)));
  }
  return values;
}

// What every run of a mode says of one figure.
class RunValues {
 public:
  void add(double value) { values_.push_back(value); }
  void add(const std::optional<double>& value) {
    if (value) values_.push_back(*value);
  }
  [[nodiscard]] std::optional<Spread> spread() const { return spread_of(values_); }

 private:
  std::vector<double> values_;
};

ModeSummary summary_of(const std::string& mode, const std::vector<Experiment>& experiments) {
  ModeSummary summary;
  summary.mode = mode;
  RunValues latency, first, following, speed, peak, moved, hits, inner, accuracy, stall;
  std::vector<const Experiment*> judged;
  for (const Experiment& experiment : experiments) {
    if (experiment.settings.mode != mode) continue;
    ++summary.experiments;
    if (!experiment.succeeded()) continue;
    ++summary.successful;
    if (experiment.idle.empty()) ++summary.acted;
    judged.push_back(&experiment);
    for (const ExperimentRun& run : experiment.runs) {
      latency.add(run.total_ms);
      first.add(run.first_token_ms);
      following.add(run.per_token_ms());
      speed.add(run.tokens_per_second());
      peak.add(static_cast<double>(device_peak_bytes(run.use)));
      moved.add(static_cast<double>(run.use.moved_bytes));
      hits.add(run.use.pages.hit_rate());
      inner.add(run.use.pages.inner_hit_rate());
      accuracy.add(run.use.pages.precision());
      stall.add(run.stall_share());
    }
  }
  summary.latency_ms = latency.spread();
  summary.first_token_ms = first.spread();
  summary.per_token_ms = following.spread();
  summary.tokens_per_second = speed.spread();
  summary.peak_bytes = peak.spread();
  summary.moved_bytes = moved.spread();
  summary.hit_rate = hits.spread();
  summary.inner_hit_rate = inner.spread();
  summary.prediction_accuracy = accuracy.spread();
  summary.stall_share = stall.spread();
  summary.quality = pooled(judged);
  return summary;
}

double saved_percent(double before, double after) { return kPercentOf * (before - after) / before; }

double decode_seconds(const std::vector<double>& step_ms) {
  return std::accumulate(step_ms.begin(), step_ms.end(), 0.0) / 1e3;
}

bool ranges_meet(const Spread& a, const Spread& b) {
  return a.least <= b.most && b.least <= a.most;
}

// Why an experiment is compared with nothing; empty where it is.
std::string not_comparable(const Experiment& experiment, const Experiment* baseline) {
  if (!experiment.failure.empty()) return "it failed";
  if (!experiment.succeeded()) return "it was not finished";
  if (!experiment.idle.empty()) return "the policy did nothing: " + experiment.idle;
  if (!experiment.unjudged.empty()) return "its quality is not known: " + experiment.unjudged;
  if (baseline == nullptr) {
    return "there is no finished baseline of this model, context, batch and number of tokens";
  }
  return {};
}

ModeComparison comparison_of(const std::string& mode, const ExperimentResult& result) {
  ModeComparison comparison;
  comparison.mode = mode;
  comparison.within_spread = true;
  RunValues latency, throughput, memory;
  std::vector<const Experiment*> compared;
  for (const Experiment& experiment : result.experiments) {
    if (experiment.settings.mode != mode) continue;
    const Experiment* baseline = result.baseline_of(experiment);
    const std::string reason = not_comparable(experiment, baseline);
    if (!reason.empty()) {
      comparison.missing = reason;
      continue;
    }
    compared.push_back(&experiment);
    const Spread own = *spread_of(latencies(experiment));
    const Spread whole = *spread_of(latencies(*baseline));
    comparison.within_spread = comparison.within_spread && ranges_meet(own, whole);
    latency.add(saved_percent(whole.median, own.median));
    throughput.add(-saved_percent(spread_of(throughputs(*baseline))->median,
                                  spread_of(throughputs(experiment))->median));
    memory.add(saved_percent(spread_of(device_peaks(*baseline))->median,
                             spread_of(device_peaks(experiment))->median));
  }
  if (!compared.empty()) comparison.missing.clear();
  comparison.latency_speedup_percent = latency.spread();
  comparison.throughput_speedup_percent = throughput.spread();
  comparison.memory_saving_percent = memory.spread();
  comparison.quality = pooled(compared);
  return comparison;
}

std::vector<std::string> mode_names(const std::vector<Experiment>& experiments) {
  std::vector<std::string> names;
  for (const Experiment& experiment : experiments) {
    const std::string& mode = experiment.settings.mode;
    if (std::ranges::find(names, mode) == names.end()) names.push_back(mode);
  }
  return names;
}

}  // namespace

std::optional<Spread> spread_of(std::vector<double> values) {
  std::erase_if(values, [](double value) { return !std::isfinite(value); });
  if (values.empty()) return std::nullopt;
  Spread spread;
  spread.count = values.size();
  const auto count = static_cast<double>(values.size());
  spread.mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  for (const double value : values) {
    spread.deviation += (value - spread.mean) * (value - spread.mean);
  }
  spread.deviation = values.size() < 2 ? 0.0 : std::sqrt(spread.deviation / (count - 1.0));
  std::ranges::sort(values);
  spread.least = values.front();
  spread.most = values.back();
  spread.median = *analysis::quantile(values, 0.5);
  return spread;
}

double ExperimentRun::tokens_per_second() const {
  return run::tokens_per_second(rows * step_ms.size(), decode_seconds(step_ms));
}

std::optional<double> ExperimentRun::stall_share() const {
  const std::optional<double> waited = use.pages.waited_seconds();
  const double seconds = decode_seconds(step_ms);
  if (use.pages.demands == 0 || !waited || !(seconds > 0.0)) return std::nullopt;
  return *waited / seconds;
}

double ExperimentRun::per_token_ms() const {
  std::vector<double> values = step_ms;
  return analysis::quantile(values, 0.5).value_or(0.0);
}

std::uint64_t device_peak_bytes(const cache::CacheUse& use) {
  return use.places.empty() ? use.peak_bytes : use.places.front().peak_bytes;
}

std::size_t ExperimentResult::successful() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(experiments, [](const Experiment& each) { return each.succeeded(); }));
}

std::vector<ModeSummary> ExperimentResult::modes() const {
  std::vector<ModeSummary> summaries;
  for (const std::string& mode : mode_names(experiments)) {
    summaries.push_back(summary_of(mode, experiments));
  }
  return summaries;
}

std::vector<ModeComparison> ExperimentResult::comparisons() const {
  std::vector<ModeComparison> all;
  for (const std::string& mode : mode_names(experiments)) {
    if (mode != kBaselineMode) all.push_back(comparison_of(mode, *this));
  }
  return all;
}

const Experiment* ExperimentResult::baseline_of(const Experiment& experiment) const {
  for (const Experiment& each : experiments) {
    if (each.is_baseline() && each.succeeded() && each.model_id == experiment.model_id &&
        each.context == experiment.context &&
        each.settings.batch_size == experiment.settings.batch_size &&
        each.settings.max_new_tokens == experiment.settings.max_new_tokens) {
      return &each;
    }
  }
  return nullptr;
}

std::string experiment_file_name(const Experiment& experiment, std::uint64_t run) {
  std::string mode = model_slug(experiment.settings.mode);
  if (mode.size() > kMaxModeName) mode.resize(kMaxModeName);
  return fmt::format("{}_{}_ctx{}_run{}.json", mode, experiment.entry, experiment.asked_context,
                     run);
}

}  // namespace kvtool::run
