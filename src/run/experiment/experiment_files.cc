#include "experiment_files.h"

#include <numeric>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "run/calibrate/json_fields.h"

namespace kvtool::run {
namespace {

constexpr const char* kComplete = "complete";
constexpr const char* kFailed = "failed";
constexpr std::uint64_t kMaxRunBytes = std::uint64_t{64} << 20U;

// What follows from the other members, for a reader.
struct RunFigures {
  double latency_ms = 0.0;
  double per_token_ms = 0.0;
  double tokens_per_second = 0.0;
  std::optional<double> cache_hit_rate;
  std::optional<double> inner_hit_rate;
  std::optional<double> prediction_accuracy;
  std::optional<double> stall_share;
  std::uint64_t device_peak_bytes = 0;
  std::string quality_is_of;  // or why there is none
};

struct RunFile {
  std::string kvtool_version;
  std::string created_utc;
  std::string status;
  std::string error;
  RunSettings settings;
  std::uint64_t run = 1;
  double first_token_ms = 0.0;
  std::vector<double> step_ms;
  cache::CacheUse cache;
  std::string idle;
  std::string unjudged;
  LabQuality quality;
  std::optional<double> read_bytes_per_step;
  RunFigures figures;
};

}  // namespace

template <>
struct JsonFields<cache::PlaceBytes> {
  static constexpr std::array kTable = {json_field<&cache::PlaceBytes::place>("place"),
                                        json_field<&cache::PlaceBytes::bytes>("bytes"),
                                        json_field<&cache::PlaceBytes::peak_bytes>("peak_bytes")};
};

template <>
struct JsonFields<cache::PageTraffic> {
  static constexpr std::array kTable = {
      json_field<&cache::PageTraffic::demands>("demands"),
      json_field<&cache::PageTraffic::hits>("hits"),
      json_field<&cache::PageTraffic::inner_demands>("inner_demands"),
      json_field<&cache::PageTraffic::inner_hits>("inner_hits"),
      json_field<&cache::PageTraffic::late>("late"),
      json_field<&cache::PageTraffic::prefetched>("prefetched"),
      json_field<&cache::PageTraffic::prefetch_hits>("prefetch_hits"),
      json_field<&cache::PageTraffic::wasted_bytes>("prefetch_wasted_bytes"),
      json_field<&cache::PageTraffic::miss_seconds>("miss_wait_seconds"),
      json_field<&cache::PageTraffic::late_seconds>("late_wait_seconds"),
      json_field<&cache::PageTraffic::write_seconds>("write_wait_seconds")};
};

template <>
struct JsonFields<cache::CacheUse> {
  static constexpr std::array kTable = {
      json_field<&cache::CacheUse::length>("length"),
      json_field<&cache::CacheUse::capacity>("capacity"),
      json_field<&cache::CacheUse::logical_bytes>("logical_bytes"),
      json_field<&cache::CacheUse::physical_bytes>("physical_bytes"),
      json_field<&cache::CacheUse::peak_bytes>("peak_bytes"),
      json_field<&cache::CacheUse::places>("places"),
      json_field<&cache::CacheUse::moved_bytes>("moved_bytes"),
      json_field<&cache::CacheUse::paged_out>("paged_out"),
      json_field<&cache::CacheUse::read_back>("read_back"),
      json_field<&cache::CacheUse::emulated_link>("emulated_link"),
      json_field<&cache::CacheUse::applied_rows>("applied_rows"),
      json_field<&cache::CacheUse::evicted_rows>("evicted_rows"),
      json_field<&cache::CacheUse::visible_keys>("visible_keys"),
      json_field<&cache::CacheUse::seen_keys>("seen_keys"),
      json_field<&cache::CacheUse::most_visible_keys>("most_visible_keys"),
      json_field<&cache::CacheUse::pages>("pages")};
};

template <>
struct JsonFields<LabQuality> {
  static constexpr std::array kTable = {
      json_field<&LabQuality::compared>("compared"),
      json_field<&LabQuality::matches>("matches"),
      json_field<&LabQuality::ties>("ties"),
      json_field<&LabQuality::noise_flips>("noise_flips"),
      json_field<&LabQuality::near_ties>("near_ties"),
      json_field<&LabQuality::hard_flips>("hard_flips"),
      json_field<&LabQuality::nonfinite>("nonfinite"),
      json_field<&LabQuality::agreement>("agreement"),
      json_field<&LabQuality::agreement_low>("agreement_low95"),
      json_field<&LabQuality::agreement_high>("agreement_high95"),
      json_field<&LabQuality::expected_flips>("flips_expected"),
      json_field<&LabQuality::expected_deviation>("flips_deviation"),
      json_field<&LabQuality::kl_is_estimate>("kl_is_estimate"),
      json_field<&LabQuality::kl_mean>("kl_mean"),
      json_field<&LabQuality::kl_error>("kl_standard_error"),
      json_field<&LabQuality::kl_median>("kl_median"),
      json_field<&LabQuality::kl_p99>("kl_p99"),
      json_field<&LabQuality::same_top>("same_top"),
      json_field<&LabQuality::rms_delta_p>("rms_delta_p"),
      json_field<&LabQuality::key_l2>("key_relative_l2"),
      json_field<&LabQuality::value_l2>("value_relative_l2")};
};

template <>
struct JsonFields<RunSettings> {
  static constexpr std::array kTable = {
      json_field<&RunSettings::mode>("mode"),
      json_field<&RunSettings::spec>("spec"),
      json_field<&RunSettings::model_id>("model_id"),
      json_field<&RunSettings::weights_sha256>("weights_sha256"),
      json_field<&RunSettings::prompts>("prompts"),
      json_field<&RunSettings::prompt_digest>("prompt_digest"),
      json_field<&RunSettings::asked_context>("asked_context_length"),
      json_field<&RunSettings::context>("context_length"),
      json_field<&RunSettings::batch_size>("batch_size"),
      json_field<&RunSettings::max_new_tokens>("max_new_tokens"),
      json_field<&RunSettings::device>("device"),
      json_field<&RunSettings::cpu_isa>("cpu_isa"),
      json_field<&RunSettings::threads>("threads")};
};

template <>
struct JsonFields<RunFigures> {
  static constexpr std::array kTable = {
      json_field<&RunFigures::latency_ms>("latency_ms"),
      json_field<&RunFigures::per_token_ms>("per_token_ms"),
      json_field<&RunFigures::tokens_per_second>("tokens_per_second"),
      json_field<&RunFigures::cache_hit_rate>("cache_hit_rate"),
      json_field<&RunFigures::inner_hit_rate>("inner_hit_rate"),
      json_field<&RunFigures::prediction_accuracy>("prediction_accuracy"),
      json_field<&RunFigures::stall_share>("stall_share"),
      json_field<&RunFigures::device_peak_bytes>("device_peak_bytes"),
      json_field<&RunFigures::quality_is_of>("quality_is_of")};
};

template <>
struct JsonFields<RunFile> {
  static constexpr std::array kTable = {
      json_field<&RunFile::kvtool_version>("kvtool_version"),
      json_field<&RunFile::created_utc>("created_utc"),
      json_field<&RunFile::status>("status"),
      json_field<&RunFile::error>("error"),
      json_field<&RunFile::settings>("settings"),
      json_field<&RunFile::run>("run"),
      json_field<&RunFile::first_token_ms>("first_token_ms"),
      json_field<&RunFile::step_ms>("step_ms"),
      json_field<&RunFile::cache>("cache"),
      json_field<&RunFile::idle>("idle"),
      json_field<&RunFile::unjudged>("unjudged"),
      json_field<&RunFile::quality>("quality"),
      json_field<&RunFile::read_bytes_per_step>("read_bytes_per_step"),
      json_field<&RunFile::figures>("figures")};
};

void write_run(const std::filesystem::path& folder, const RunSettings& settings,
               const Experiment& experiment, const ExperimentRun& run,
               const std::string& created_utc) {
  RunFile file;
  file.kvtool_version = KVTOOL_VERSION;
  file.created_utc = created_utc;
  file.status = experiment.failure.empty() ? kComplete : kFailed;
  file.error = experiment.failure;
  file.settings = settings;
  file.run = run.number;
  file.first_token_ms = run.first_token_ms;
  file.step_ms = run.step_ms;
  file.cache = run.use;
  file.idle = experiment.idle;
  file.unjudged = experiment.unjudged;
  file.quality = experiment.quality;
  file.read_bytes_per_step = experiment.read_bytes_per_step;
  file.figures = {.latency_ms = run.total_ms,
                  .per_token_ms = run.per_token_ms(),
                  .tokens_per_second = run.tokens_per_second(),
                  .cache_hit_rate = run.use.pages.hit_rate(),
                  .inner_hit_rate = run.use.pages.inner_hit_rate(),
                  .prediction_accuracy = run.use.pages.precision(),
                  .stall_share = run.stall_share(),
                  .device_peak_bytes = device_peak_bytes(run.use),
                  .quality_is_of = experiment.unjudged.empty()
                                       ? "the baseline's tokens, fed under this cache"
                                       : experiment.unjudged};
  write_output_file(folder / experiment_file_name(experiment, run.number),
                    JsonCodec<RunFile>::write(file).dump(2, ' ', false,
                                                         nlohmann::json::error_handler_t::replace) +
                        "\n");
}

std::optional<ExperimentRun> read_run(const std::filesystem::path& folder,
                                      const RunSettings& settings, std::uint64_t number,
                                      Experiment& experiment) {
  const std::filesystem::path path = folder / experiment_file_name(experiment, number);
  if (!std::filesystem::is_regular_file(path)) return std::nullopt;
  try {
    const std::string text = read_text_file(path, kMaxRunBytes);
    const auto file = JsonCodec<RunFile>::read(
        parse_json_text(text, path.string(), /*ignore_comments=*/false), path.string());
    if (file.status != kComplete || file.run != number || !(file.settings == settings)) {
      return std::nullopt;
    }
    experiment.idle = file.idle;
    experiment.unjudged = file.unjudged;
    experiment.quality = file.quality;
    experiment.read_bytes_per_step = file.read_bytes_per_step;
    return ExperimentRun{
        .number = number,
        .first_token_ms = file.first_token_ms,
        .step_ms = file.step_ms,
        .total_ms = std::accumulate(file.step_ms.begin(), file.step_ms.end(), file.first_token_ms),
        .rows = settings.batch_size,
        .use = file.cache};
  } catch (const Error&) {
    return std::nullopt;  // of another version, or damaged: it is measured again
  }
}

void write_summary(const ExperimentResult& result) {
  write_output_file(
      result.folder / "experiment_summary.json",
      experiment_summary(result).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
          "\n");
}

}  // namespace kvtool::run
