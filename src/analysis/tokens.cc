#include "kvtool/analysis/tokens.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <optional>

#include "kvtool/analysis/kv_error.h"
#include "kvtool/analysis/statistics.h"
#include "recorded_logits.h"

namespace kvtool::analysis {
namespace {

using format::StepStats;

// A step's noise counts up to so many times the stretch's median.
constexpr double kMostNoise = 2.0;
// Steps that differ at all, for their median to say what is usual of them.
constexpr std::size_t kFewestNoisySteps = 8;
// In ulp, the deviation of the difference of two values that are rounded on their own, 1 / sqrt(6).
// Below an ulp, noise moves few logits, but each by a whole one.
constexpr double kRoundingNoise = 0.40824829046386302;

bool same_bits(double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }

bool same_logits(const StepStats& reference, const StepStats& live) {
  // A digest of 0 says that there is none, so it can neither confirm nor refute.
  const bool digests_known = reference.logits_digest != 0 && live.logits_digest != 0;
  return reference.top_ids == live.top_ids &&
         reference.top_logits.size() == live.top_logits.size() &&
         std::equal(reference.top_logits.begin(), reference.top_logits.end(),
                    live.top_logits.begin(),
                    [](float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }) &&
         same_bits(reference.logsumexp, live.logsumexp) &&
         (!digests_known || reference.logits_digest == live.logits_digest);
}

std::optional<double> logit_of(const StepStats& stats, std::int32_t id) {
  for (std::size_t i = 0; i < num_recorded(stats); ++i) {
    if (stats.top_ids[i] == id) return stats.top_logits[i];
  }
  return std::nullopt;
}

std::optional<double> best_other_logit(const StepStats& stats, std::int32_t id) {
  for (std::size_t i = 0; i < num_recorded(stats); ++i) {
    if (stats.top_ids[i] != id) return stats.top_logits[i];
  }
  return std::nullopt;
}

// The recorded token is first in its own top-k, unless the recording comes from
// a generator that is not greedy; so its logit is looked for.
void measure_gap(const StepStats& reference, TokenComparison& token) {
  const double recorded = logit_of(reference, token.recorded).value_or(kNaN);
  token.margin = recorded - best_other_logit(reference, token.recorded).value_or(kNaN);
  if (token.predicted < 0) {
    token.gap = kNaN;
  } else if (token.predicted == token.recorded) {
    token.gap = 0.0;
  } else if (const std::optional<double> predicted = logit_of(reference, token.predicted)) {
    token.gap = recorded - *predicted;
  } else if (num_recorded(reference) > 0) {
    token.gap = recorded - reference.top_logits[num_recorded(reference) - 1];
    token.gap_is_bound = true;
  } else {
    token.gap = kNaN;
  }
}

void measure_live_gap(const StepStats& live, TokenComparison& token) {
  token.live_gap = logit_of(live, token.predicted).value_or(kNaN) -
                   logit_of(live, token.recorded).value_or(kNaN);
}

double coarser_ulp(const TokenOptions& options, const StepStats& reference) {
  const double recorded = logit_of(reference, reference.token).value_or(kNaN);
  return std::max(ulp(options.reference_logits_dtype, recorded),
                  ulp(options.live_logits_dtype, recorded));
}

TokenVerdict classify(const TokenComparison& token, double near_tie_ulps) {
  if (token.predicted < 0) return TokenVerdict::kHardFlip;
  if (token.predicted == token.recorded) return TokenVerdict::kMatch;
  // What cannot be shown to be a tie is none: a NaN gap (unknown) fails every comparison.
  if (token.nonfinite) return TokenVerdict::kHardFlip;
  const double gap = token.judged_gap();
  if (gap <= token.ulp) return TokenVerdict::kTie;
  if (gap <= token.noise_bound) return TokenVerdict::kNoise;
  if (std::isnan(token.noise_bound) && gap <= near_tie_ulps * token.ulp) {
    return TokenVerdict::kNearTie;
  }
  return TokenVerdict::kHardFlip;
}

double finite_or(double value, double otherwise) {
  return std::isfinite(value) ? value : otherwise;
}

// The lower median of the noise of the steps that have any, where these are enough to say what is
// usual; else of all steps. NaN where none was measured.
double median_noise(std::span<const TokenComparison> tokens) {
  std::vector<double> noises;
  std::vector<double> noisy;
  for (const TokenComparison& token : tokens) {
    if (std::isnan(token.noise.top)) continue;
    noises.push_back(token.noise.top);
    if (token.noise.top > 0.0) noisy.push_back(token.noise.top);
  }
  return quantile(noisy.size() < kFewestNoisySteps ? noises : noisy, 0.5).value_or(kNaN);
}

// Both sides' lists begin with the best `count` ids; the share that they have in common.
double overlap(const StepStats& reference, const StepStats& live, std::size_t count) {
  const auto live_end = live.top_ids.begin() + static_cast<std::ptrdiff_t>(count);
  const auto common = std::count_if(
      reference.top_ids.begin(), reference.top_ids.begin() + static_cast<std::ptrdiff_t>(count),
      [&](std::int32_t id) { return std::find(live.top_ids.begin(), live_end, id) != live_end; });
  return static_cast<double>(common) / static_cast<double>(count);
}

bool among_best(const StepStats& stats, std::size_t count, std::int32_t id) {
  const auto end =
      stats.top_ids.begin() + static_cast<std::ptrdiff_t>(std::min(count, num_recorded(stats)));
  return std::find(stats.top_ids.begin(), end, id) != end;
}

void measure_agreement(const StepStats& reference, const StepStats& live, TokenComparison& token) {
  constexpr std::size_t kFew = 5;
  constexpr std::size_t kMany = 100;
  const std::size_t recorded = std::min(num_recorded(reference), num_recorded(live));
  // A side without a best id agrees with nothing.
  const bool both_chose = reference.token >= 0 && live.token >= 0;
  if (recorded >= kMany) token.top100_overlap = both_chose ? overlap(reference, live, kMany) : 0.0;
  if (!both_chose) return;
  if (recorded == 0) {
    token.top1_agrees = token.in_top5 = reference.token == live.token;
    token.top5_overlap = token.top1_agrees ? 1.0 : 0.0;
    return;
  }
  token.top1_agrees = reference.top_ids.front() == live.top_ids.front();
  token.in_top5 = among_best(reference, kFew, live.top_ids.front());
  token.top5_overlap = overlap(reference, live, std::min(kFew, recorded));
}

double probability(const StepStats& stats, double logit) {
  return std::exp(logit - stats.logsumexp);
}

double delta_p(const StepStats& reference, const StepStats& live) {
  if (holds_nonfinite(reference) || holds_nonfinite(live) || num_recorded(live) == 0) return kNaN;
  const std::optional<double> recorded_logit = logit_of(reference, reference.token);
  if (!recorded_logit) return kNaN;
  const double recorded = probability(reference, *recorded_logit);
  if (const std::optional<double> logit = logit_of(live, reference.token)) {
    return probability(live, *logit) - recorded;
  }
  // Anything from 0 to the last probability that is on the list.
  const double highest = probability(live, live.top_logits[num_recorded(live) - 1]);
  return highest - recorded > recorded ? highest - recorded : -recorded;
}

}  // namespace

std::string_view verdict_name(TokenVerdict verdict) {
  switch (verdict) {
    case TokenVerdict::kMatch: return "match";
    case TokenVerdict::kTie: return "tie";
    case TokenVerdict::kNoise: return "noise";
    case TokenVerdict::kNearTie: return "near_tie";
    case TokenVerdict::kHardFlip: return "hard_flip";
  }
  return "unknown";
}

double TokenComparison::judged_gap() const {
  if (!gap_is_bound) return gap;
  return std::isnan(live_gap) ? kNaN : std::max(gap, live_gap);
}

double TokenComparison::gap_in_noise(double noise_z) const {
  if (predicted == recorded) return 0.0;
  return judged_gap() / (noise_bound / noise_z);
}

TokenComparison compare_token(std::uint64_t index, const StepStats& reference,
                              const StepStats& live, const TokenOptions& options,
                              StretchCandidates& candidates) {
  TokenComparison token;
  token.index = index;
  token.recorded = reference.token;
  token.predicted = live.token;
  token.ulp = coarser_ulp(options, reference);
  token.logits_equal = same_logits(reference, live);
  token.nonfinite = holds_nonfinite(live) || holds_nonfinite(reference);
  measure_gap(reference, token);
  measure_live_gap(live, token);
  token.kl = kl_lower_bound(reference, live);
  measure_agreement(reference, live, token);
  token.delta_p = delta_p(reference, live);
  std::vector<FlipCandidate>& best = candidates.emplace_back();
  if (options.measures_noise && !token.nonfinite) {
    const LogitDeltas deltas = logit_deltas(reference, live);
    token.noise = measure_noise(reference, deltas);
    token.kl_estimate = estimate_kl(reference, live, deltas, options.vocab_size, index);
    best = flip_candidates(reference, deltas);
    if (!best.empty()) token.flip_probability = flip_probability(best);
    // Where noise makes no flip it makes no hard one: nothing to keep.
    if (token.flip_probability == 0.0) best = {};
  }
  token.verdict = classify(token, options.bounds.near_tie_ulps);
  return token;
}

void judge_noise(std::span<TokenComparison> tokens,
                 std::span<const std::vector<FlipCandidate>> candidates,
                 const TokenOptions& options) {
  const double most = kMostNoise * median_noise(tokens);
  // The last hidden state is rounded on each side, whatever type the head has.
  const double of_hidden = std::numbers::sqrt2 * storage_rounding_floor(options.layer_dtype);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    TokenComparison& token = tokens[i];
    const double least =
        std::max(kRoundingNoise * token.ulp, finite_or(of_hidden * token.noise.deviation, 0.0));
    const double noise = std::max(std::min(token.noise.top, most), least);
    token.noise_bound = options.bounds.noise_z * std::numbers::sqrt2 * noise;
    if (std::isnan(token.noise.top)) token.noise_bound = kNaN;
    token.verdict = classify(token, options.bounds.near_tie_ulps);
    if (std::isnan(token.flip_probability) || std::isnan(token.noise_bound)) continue;
    token.hard_flip_probability =
        flip_probability(candidates[i], std::max(token.noise_bound, token.ulp));
  }
}

}  // namespace kvtool::analysis
