#include "kvtool/analysis/summary.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kvtool/analysis/rerouting.h"
#include "kvtool/analysis/statistics.h"

namespace kvtool::analysis {
namespace {

std::optional<double> mean(double sum, std::uint64_t count) {
  if (count == 0) return std::nullopt;
  return sum / static_cast<double>(count);
}

std::optional<double> rate(std::uint64_t part, std::uint64_t whole) {
  return mean(static_cast<double>(part), whole);
}

void add_worst(const InputName& input, std::uint64_t index, double kl, KlSummary& summary) {
  if (kl <= summary.max.value_or(0.0)) return;
  summary.max = kl;
  summary.worst = Place{.input = input, .token_index = index};
}

KlSummary finished_kl(const KlSummary& summary, std::vector<double> values) {
  KlSummary result = summary;
  result.measured = values.size();
  if (values.empty()) return result;
  result.mean = mean(std::accumulate(values.begin(), values.end(), 0.0), values.size());
  result.median = quantile(values, 0.5);
  result.p99 = quantile(values, 0.99);
  result.max = quantile(values, 1.0);
  return result;
}

FlipSummary finished_flips(std::uint64_t observed, const std::vector<double>& probabilities) {
  FlipSummary flips{.measured = probabilities.size(), .observed = observed};
  if (probabilities.empty()) return flips;
  double variance = 0.0;
  for (const double p : probabilities) variance += p * (1.0 - p);
  flips.expected = std::accumulate(probabilities.begin(), probabilities.end(), 0.0);
  flips.deviation = std::sqrt(variance);
  flips.tail = upper_tail(probabilities, observed);
  return flips;
}

std::uint64_t agreed_tokens(const FirstDivergence& row) {
  return row.token ? row.token->index : row.compared;
}

}  // namespace

std::string to_string(const InputName& input) {
  return "batch" + std::to_string(input.batch_size) + "_input" + std::to_string(input.input_index);
}

void TokenSummary::add(const TokenComparison& token) {
  ++compared;
  switch (token.verdict) {
    case TokenVerdict::kMatch: ++matches; break;
    case TokenVerdict::kTie: ++ties; break;
    case TokenVerdict::kNoise: ++noise_flips; break;
    case TokenVerdict::kNearTie: ++near_ties; break;
    case TokenVerdict::kHardFlip: ++hard_flips; break;
  }
  nonfinite += token.nonfinite ? 1 : 0;
}

std::optional<double> TokenSummary::match_rate() const { return rate(matches, compared); }
std::optional<double> TokenSummary::match_rate_lower95() const {
  return clopper_pearson_lower(matches, compared);
}
std::optional<double> TokenSummary::tie_rate() const {
  return rate(ties + noise_flips + near_ties, compared);
}
std::optional<double> TokenSummary::explained_rate_lower95() const {
  return clopper_pearson_lower(matches + ties + noise_flips + near_ties, compared);
}

const KlSummary& LogitSummary::kl() const {
  return kl_estimate.measured > 0 ? kl_estimate : kl_bound;
}

const ModeSummary* RunSummary::mode(format::ReplayMode mode) const {
  const auto found = std::find_if(modes.begin(), modes.end(),
                                  [mode](const ModeSummary& entry) { return entry.mode == mode; });
  return found == modes.end() ? nullptr : &*found;
}

void RunSummaryBuilder::Stretch::add_tokens(const InputName& input,
                                            std::span<const TokenComparison> tokens,
                                            std::uint64_t uncompared) {
  TokenSummary& counts = summary.tokens;
  bool all_match = uncompared == 0;
  for (const TokenComparison& token : tokens) {
    all_match &= token.verdict == TokenVerdict::kMatch;
    add_verdict(token);
    add_agreement(token);
    add_kl(input, token);
    add_noise(token);
  }
  counts.inputs += 1;
  counts.inputs_matching += all_match ? 1 : 0;
  counts.uncompared += uncompared;
  summary.logits.compared += tokens.size();
}

void RunSummaryBuilder::Stretch::add_verdict(const TokenComparison& token) {
  summary.tokens.add(token);
  summary.logits.bitwise_equal += token.logits_equal ? 1 : 0;
}

void RunSummaryBuilder::Stretch::add_kl(const InputName& input, const TokenComparison& token) {
  LogitSummary& logits = summary.logits;
  if (!std::isnan(token.kl)) {
    kl_bounds.push_back(token.kl);
    add_worst(input, token.index, token.kl, logits.kl_bound);
  }
  const KlEstimate& estimate = token.kl_estimate;
  if (std::isnan(estimate.value)) return;
  kl_estimates.push_back(estimate.value);
  squared_kl_errors += estimate.standard_error * estimate.standard_error;
  logits.kl_unreliable += estimate.reliable ? 0 : 1;
  add_worst(input, token.index, estimate.value, logits.kl_estimate);
}

void RunSummaryBuilder::Stretch::add_noise(const TokenComparison& token) {
  if (!std::isnan(token.noise.relative())) {
    summary.logits.noise_measured += 1;
    squared_noise += token.noise.top * token.noise.top;
    squared_relative_noise += token.noise.relative() * token.noise.relative();
  }
  const bool flipped = token.verdict != TokenVerdict::kMatch;
  if (!std::isnan(token.flip_probability)) {
    flip_probabilities.push_back(token.flip_probability);
    summary.flips.observed += flipped ? 1 : 0;
  }
  if (!std::isnan(token.hard_flip_probability)) {
    hard_flip_probabilities.push_back(token.hard_flip_probability);
    summary.hard_flips.observed += token.verdict == TokenVerdict::kHardFlip ? 1 : 0;
  }
}

void RunSummaryBuilder::Stretch::add_agreement(const TokenComparison& token) {
  LogitSummary& logits = summary.logits;
  top1 += token.top1_agrees ? 1.0 : 0.0;
  top5 += token.top5_overlap;
  in_top5 += token.in_top5 ? 1.0 : 0.0;
  if (token.top100_overlap) {
    logits.top100_measured += 1;
    top100 += *token.top100_overlap;
  }
  if (!std::isnan(token.delta_p)) {
    logits.delta_p_measured += 1;
    squared_delta_p += token.delta_p * token.delta_p;
  }
}

void RunSummaryBuilder::Stretch::add_profile(const InputName& input, const KvProfile& profile,
                                             std::uint64_t recorded_rows,
                                             std::uint64_t first_position) {
  KvSummary& kv = summary.kv;
  kv.recorded_rows += recorded_rows;
  kv.profile.add(profile);
  if (kv.departure) return;
  kv.departure = find_departure(profile);
  if (!kv.departure) return;
  kv.departure_input = input;
  kv.departure_first_position = first_position;
}

void RunSummaryBuilder::Stretch::add_rows(const KvProfile& profile,
                                          const std::vector<bool>& routed_layers) {
  KvSummary& kv = summary.kv;
  const std::vector<std::size_t> explained = rerouted_from(profile, routed_layers);
  kv.compared_rows += profile.num_positions();
  for (std::uint64_t position = 0; position < profile.num_positions(); ++position) {
    kv.rerouted_rows += explained[position] < profile.num_layers() ? 1 : 0;
    for (std::size_t layer = 0; layer < explained[position]; ++layer) {
      for (const KvKind kind : kKvKinds) {
        const double error = profile.row_error(kind, layer, position);
        std::optional<double>& largest = kv.unrouted_row_max[static_cast<std::size_t>(kind)];
        if (!std::isnan(error)) largest = std::max(error, largest.value_or(0.0));
      }
    }
  }
}

StretchSummary RunSummaryBuilder::Stretch::finished() const {
  StretchSummary result = summary;
  LogitSummary& logits = result.logits;
  logits.kl_bound = finished_kl(logits.kl_bound, kl_bounds);
  logits.kl_estimate = finished_kl(logits.kl_estimate, kl_estimates);
  if (const std::uint64_t count = logits.kl_estimate.measured; count > 0) {
    logits.kl_standard_error = std::sqrt(squared_kl_errors) / static_cast<double>(count);
  }
  if (const std::uint64_t count = logits.noise_measured; count > 0) {
    logits.noise = std::sqrt(squared_noise / static_cast<double>(count));
    logits.relative_noise = std::sqrt(squared_relative_noise / static_cast<double>(count));
  }
  result.flips = finished_flips(summary.flips.observed, flip_probabilities);
  result.hard_flips = finished_flips(summary.hard_flips.observed, hard_flip_probabilities);
  logits.top1_agreement = mean(top1, logits.compared);
  logits.top5_agreement = mean(top5, logits.compared);
  logits.top5_accuracy = mean(in_top5, logits.compared);
  logits.top100_agreement = mean(top100, logits.top100_measured);
  if (const auto square = mean(squared_delta_p, logits.delta_p_measured)) {
    logits.rms_delta_p = std::sqrt(*square);
  }
  return result;
}

void RunSummaryBuilder::Mode::add_divergences(const InputName& input,
                                              std::span<const TokenComparison> tokens) {
  FirstDivergence& divergence = summary.first_divergences.emplace_back(
      FirstDivergence{.input = input, .compared = tokens.size(), .token = std::nullopt});
  for (const TokenComparison& token : tokens) {
    if (token.verdict == TokenVerdict::kMatch) continue;
    if (!divergence.token) divergence.token = token;
    if (token.verdict == TokenVerdict::kHardFlip && summary.hard_flips.size() < kMaxListedFlips) {
      summary.hard_flips.push_back({.input = input, .token = token});
    }
  }
}

ModeSummary RunSummaryBuilder::Mode::finished() const {
  ModeSummary result = summary;
  result.steps = steps.finished();
  std::vector<double> agreed;
  double recorded = static_cast<double>(result.steps.tokens.uncompared);
  for (const FirstDivergence& row : summary.first_divergences) {
    agreed.push_back(static_cast<double>(agreed_tokens(row)));
    recorded += static_cast<double>(row.compared);
  }
  if (recorded > 0.0) {
    result.agreed_fraction = std::accumulate(agreed.begin(), agreed.end(), 0.0) / recorded;
  }
  result.agreed_tokens_min = quantile(agreed, 0.0);
  result.agreed_tokens_median = quantile(agreed, 0.5);
  return result;
}

RunSummaryBuilder::Mode& RunSummaryBuilder::mode(format::ReplayMode mode) {
  const auto found = std::find_if(modes_.begin(), modes_.end(),
                                  [mode](const Mode& entry) { return entry.summary.mode == mode; });
  if (found != modes_.end()) return *found;
  Mode& added = modes_.emplace_back();
  added.summary.mode = mode;
  return added;
}

void RunSummaryBuilder::add(const InputName& input, std::uint64_t prompt_length,
                            format::ReplayMode replay_mode, const RowComparison& comparison,
                            bool with_prefill) {
  const std::span<const TokenComparison> tokens = comparison.tokens;
  const std::size_t prefill_tokens = std::min<std::size_t>(tokens.size(), 1);
  if (with_prefill) {
    prefill_.add_tokens(input, tokens.first(prefill_tokens), 0);
    prefill_.add_profile(input, comparison.prefill_kv, comparison.recorded_prefill_rows, 0);
    prefill_.add_rows(comparison.prefill_kv, routed_layers_);
  }
  Mode& entry = mode(replay_mode);
  entry.add_divergences(input, tokens);
  entry.steps.add_tokens(input, tokens.subspan(prefill_tokens), comparison.uncompared_steps);
  entry.steps.add_profile(input, comparison.step_kv, comparison.recorded_step_rows, prompt_length);
  entry.steps.add_rows(comparison.step_kv, routed_layers_);
}

RunSummary RunSummaryBuilder::build() const {
  RunSummary run;
  run.prefill = prefill_.finished();
  for (const Mode& entry : modes_) run.modes.push_back(entry.finished());

  const ModeSummary* inject = run.mode(format::ReplayMode::kInject);
  const ModeSummary* forced = run.mode(format::ReplayMode::kForced);
  if (inject != nullptr && forced != nullptr) {
    const bool estimated = inject->steps.logits.kl_estimate.measured > 0 &&
                           forced->steps.logits.kl_estimate.measured > 0;
    const auto median = [&](const ModeSummary& mode) {
      const LogitSummary& logits = mode.steps.logits;
      return (estimated ? logits.kl_estimate : logits.kl_bound).median;
    };
    const double base = median(*inject).value_or(0.0);
    const std::optional<double> grown = median(*forced);
    if (base > 0.0 && grown) run.amplification = *grown / base;
  }
  return run;
}

}  // namespace kvtool::analysis
