// experiment_summary.json.
#include "kvtool/base/text.h"
#include "kvtool/run/experiment.h"

namespace kvtool::run {
namespace {

using Ordered = nlohmann::ordered_json;

Ordered json_of(const std::optional<double>& value) {
  return value ? Ordered(*value) : Ordered(nullptr);
}

Ordered known(const std::string& text) {
  return text.empty() ? Ordered(nullptr) : Ordered(valid_utf8(text));
}

Ordered mean_of(const std::optional<Spread>& spread) {
  return spread ? Ordered(spread->mean) : Ordered(nullptr);
}

Ordered json_of(const std::optional<Spread>& spread) {
  if (!spread) return nullptr;
  return {{"count", spread->count},   {"mean", spread->mean},
          {"median", spread->median}, {"min", spread->least},
          {"max", spread->most},      {"standard_deviation", spread->deviation}};
}

Ordered json_of(const LabQuality& quality) {
  if (quality.compared == 0) return nullptr;
  return {{"compared", quality.compared},
          {"matches", quality.matches},
          {"agreement", json_of(quality.agreement)},
          {"agreement_low95", json_of(quality.agreement_low)},
          {"agreement_high95", json_of(quality.agreement_high)},
          {"hard_flips", quality.hard_flips},
          {"nonfinite", quality.nonfinite},
          {"kl_is_estimate", quality.kl_is_estimate},
          {"kl_mean", json_of(quality.kl_mean)}};
}

Ordered json_of(const ModeSummary& mode) {
  return {{"experiments", mode.experiments},
          {"successful", mode.successful},
          {"acted", mode.acted},
          {"average_latency_ms", mean_of(mode.latency_ms)},
          {"average_first_token_ms", mean_of(mode.first_token_ms)},
          {"average_per_token_ms", mean_of(mode.per_token_ms)},
          {"average_tokens_per_second", mean_of(mode.tokens_per_second)},
          {"average_cache_hit_rate", mean_of(mode.hit_rate)},
          {"average_inner_hit_rate", mean_of(mode.inner_hit_rate)},
          {"average_prediction_accuracy", mean_of(mode.prediction_accuracy)},
          {"average_stall_share", mean_of(mode.stall_share)},
          {"average_device_peak_bytes", mean_of(mode.peak_bytes)},
          {"average_moved_bytes", mean_of(mode.moved_bytes)},
          {"spread",
           {{"latency_ms", json_of(mode.latency_ms)},
            {"first_token_ms", json_of(mode.first_token_ms)},
            {"per_token_ms", json_of(mode.per_token_ms)},
            {"tokens_per_second", json_of(mode.tokens_per_second)},
            {"cache_hit_rate", json_of(mode.hit_rate)},
            {"inner_hit_rate", json_of(mode.inner_hit_rate)},
            {"prediction_accuracy", json_of(mode.prediction_accuracy)},
            {"stall_share", json_of(mode.stall_share)},
            {"device_peak_bytes", json_of(mode.peak_bytes)},
            {"moved_bytes", json_of(mode.moved_bytes)}}},
          {"quality", json_of(mode.quality)}};
}

Ordered json_of(const ModeComparison& comparison) {
  return {{"compared_experiments",
           comparison.latency_speedup_percent ? comparison.latency_speedup_percent->count : 0},
          {"missing", known(comparison.missing)},
          {"latency_speedup_percent", mean_of(comparison.latency_speedup_percent)},
          {"throughput_speedup_percent", mean_of(comparison.throughput_speedup_percent)},
          {"device_memory_saving_percent", mean_of(comparison.memory_saving_percent)},
          {"within_spread", comparison.latency_speedup_percent ? Ordered(comparison.within_spread)
                                                               : Ordered(nullptr)},
          {"spread",
           {{"latency_speedup_percent", json_of(comparison.latency_speedup_percent)},
            {"throughput_speedup_percent", json_of(comparison.throughput_speedup_percent)},
            {"device_memory_saving_percent", json_of(comparison.memory_saving_percent)}}},
          {"quality", json_of(comparison.quality)}};
}

// Of all runs of an experiment.
template <typename Value>
Ordered spread_over(const Experiment& experiment, Value value) {
  std::vector<double> values;
  for (const ExperimentRun& run : experiment.runs) {
    const std::optional<double> each = value(run);
    if (each) values.push_back(*each);
  }
  return json_of(spread_of(std::move(values)));
}

Ordered places_of(const Experiment& experiment) {
  Ordered places = Ordered::array();
  if (experiment.runs.empty()) return places;
  for (const cache::PlaceBytes& place : experiment.runs.back().use.places) {
    places.push_back({{"place", valid_utf8(place.place)}, {"peak_bytes", place.peak_bytes}});
  }
  return places;
}

Ordered json_of(const Experiment& experiment) {
  Ordered files = Ordered::array();
  for (const ExperimentRun& run : experiment.runs) {
    files.push_back(experiment_file_name(experiment, run.number));
  }
  const auto optional = [](double value) { return std::optional(value); };
  using Run = const ExperimentRun&;
  return {
      {"experiment", experiment.entry},
      {"mode", valid_utf8(experiment.settings.mode)},
      {"spec", experiment.spec},
      {"model", valid_utf8(experiment.settings.model)},
      {"model_id", known(experiment.model_id)},
      {"asked_context_length", experiment.asked_context},
      {"context_length", experiment.context},
      {"shortened", experiment.shortened()},
      {"batch_size", experiment.settings.batch_size},
      {"max_new_tokens", experiment.settings.max_new_tokens},
      {"num_runs", experiment.settings.runs},
      {"completed_runs", experiment.runs.size()},
      {"resumed_runs", experiment.resumed},
      {"success", experiment.succeeded()},
      {"error", known(experiment.failure)},
      {"acted", experiment.is_baseline()
                    ? Ordered(nullptr)
                    : Ordered(experiment.succeeded() && experiment.idle.empty())},
      {"idle", known(experiment.idle)},
      {"files", std::move(files)},
      {"latency_ms", spread_over(experiment, [&](Run run) { return optional(run.total_ms); })},
      {"first_token_ms",
       spread_over(experiment, [&](Run run) { return optional(run.first_token_ms); })},
      {"per_token_ms",
       spread_over(experiment, [&](Run run) { return optional(run.per_token_ms()); })},
      {"tokens_per_second",
       spread_over(experiment, [&](Run run) { return optional(run.tokens_per_second()); })},
      {"cache_hit_rate", spread_over(experiment, [](Run run) { return run.use.pages.hit_rate(); })},
      {"inner_hit_rate",
       spread_over(experiment, [](Run run) { return run.use.pages.inner_hit_rate(); })},
      {"prediction_accuracy",
       spread_over(experiment, [](Run run) { return run.use.pages.precision(); })},
      {"stall_share", spread_over(experiment, [](Run run) { return run.stall_share(); })},
      {"moved_bytes",
       spread_over(experiment,
                   [&](Run run) { return optional(static_cast<double>(run.use.moved_bytes)); })},
      {"peak_bytes_by_place", places_of(experiment)},
      {"read_bytes_per_step", json_of(experiment.read_bytes_per_step)},
      {"quality", json_of(experiment.quality)},
      {"quality_missing", known(experiment.unjudged)}};
}

}  // namespace

nlohmann::ordered_json experiment_summary(const ExperimentResult& result) {
  Ordered modes = Ordered::object();
  for (const ModeSummary& mode : result.modes()) modes[valid_utf8(mode.mode)] = json_of(mode);
  Ordered comparisons = Ordered::object();
  for (const ModeComparison& comparison : result.comparisons()) {
    comparisons[valid_utf8(comparison.mode)] = json_of(comparison);
  }
  Ordered experiments = Ordered::array();
  for (const Experiment& experiment : result.experiments)
    experiments.push_back(json_of(experiment));
  Ordered notes = Ordered::array();
  for (const std::string& note : result.notes) notes.push_back(valid_utf8(note));
  return {{"kvtool_version", KVTOOL_VERSION},
          {"created_utc", result.created_utc},
          {"device", valid_utf8(result.device)},
          {"prompts", valid_utf8(result.prompts)},
          {"interrupted", result.interrupted},
          {"experiment_summary",
           {{"total_experiments", result.experiments.size()},
            {"successful_experiments", result.successful()},
            {"total_duration_seconds", result.seconds}}},
          {"mode_summaries", std::move(modes)},
          {"comparative_analysis", std::move(comparisons)},
          {"experiments", std::move(experiments)},
          {"notes", std::move(notes)}};
}

}  // namespace kvtool::run
