#include "kvtool/analysis/tokens.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <unordered_map>

namespace kvtool::analysis {
namespace {

using format::StepStats;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

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

bool holds_nonfinite(const StepStats& stats) {
  return stats.token < 0 || !std::isfinite(stats.logsumexp) ||
         !std::all_of(
             stats.top_logits.begin(), stats.top_logits.end(),
             [](float logit) { return std::isfinite(logit); });
}

std::size_t num_recorded(const StepStats& stats) {
  return std::min(stats.top_ids.size(), stats.top_logits.size());
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

TokenVerdict classify(const TokenComparison& token, double tolerance_ulps) {
  if (token.predicted < 0) return TokenVerdict::kHardFlip;
  if (token.predicted == token.recorded) return TokenVerdict::kMatch;
  // What cannot be shown to be a tie is none: a NaN gap (unknown) fails both comparisons.
  if (token.nonfinite) return TokenVerdict::kHardFlip;
  const double gap = token.judged_gap();
  if (gap <= token.ulp) return TokenVerdict::kTie;
  if (gap <= tolerance_ulps * token.ulp) return TokenVerdict::kNearTie;
  return TokenVerdict::kHardFlip;
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

// A bin's share p log(p / q) - p + q. The linear parts cancel in the sum over a
// partition; with them no share is negative, and nearly equal distributions lose no digits.
double divergence_share(double log_p, double log_q) {
  const double p = std::exp(log_p);
  const double x = log_q - log_p;
  if (std::abs(x) < 1.0) return p * (std::expm1(x) - x);
  return std::exp(log_q) - p - p * x;
}

// Of 1 minus a sum close to 1, what is smaller cannot be told from rounding.
constexpr double kSmallestMass = 1e-12;
double at_least_smallest(double mass) { return std::max(mass, kSmallestMass); }

// Mass of the ids that only the reference recorded, and the most that the live
// side can give them: no unrecorded logit is above the last recorded one.
struct OneSided {
  double reference_mass = 0.0;
  double live_bound = 0.0;
};

double rest_divergence(double p, double q, const OneSided& one_sided) {
  // Of all splits that the bound allows, the one with the least sum counts: in
  // proportion, which is no split at all, or at the bound where that is less.
  if (one_sided.live_bound * p >= one_sided.reference_mass * q) {
    return divergence_share(std::log(p), std::log(q));
  }
  const double bound = std::max(one_sided.live_bound, std::numeric_limits<double>::min());
  return divergence_share(std::log(one_sided.reference_mass), std::log(bound)) +
         divergence_share(std::log(at_least_smallest(p - one_sided.reference_mass)),
                          std::log(at_least_smallest(q - bound)));
}

}  // namespace

std::string_view verdict_name(TokenVerdict verdict) {
  switch (verdict) {
    case TokenVerdict::kMatch: return "match";
    case TokenVerdict::kTie: return "tie";
    case TokenVerdict::kNearTie: return "near_tie";
    case TokenVerdict::kHardFlip: return "hard_flip";
  }
  return "unknown";
}

double TokenComparison::judged_gap() const {
  if (!gap_is_bound) return gap;
  return std::isnan(live_gap) ? kNaN : std::max(gap, live_gap);
}

double kl_lower_bound(const StepStats& reference, const StepStats& live) {
  if (holds_nonfinite(reference) || holds_nonfinite(live)) return kNaN;
  if (num_recorded(reference) == 0 || num_recorded(live) == 0) return kNaN;
  std::unordered_map<std::int32_t, double> live_logs;
  for (std::size_t i = 0; i < num_recorded(live); ++i) {
    live_logs.emplace(live.top_ids[i], live.top_logits[i] - live.logsumexp);
  }
  const double least_live = std::exp(live.top_logits[num_recorded(live) - 1] - live.logsumexp);

  double divergence = 0.0;
  double reference_mass = 0.0;
  double live_mass = 0.0;
  OneSided one_sided;
  for (std::size_t i = 0; i < num_recorded(reference); ++i) {
    const double log_p = reference.top_logits[i] - reference.logsumexp;
    const auto found = live_logs.find(reference.top_ids[i]);
    if (found == live_logs.end()) {
      one_sided.reference_mass += std::exp(log_p);
      one_sided.live_bound += least_live;
      continue;
    }
    divergence += divergence_share(log_p, found->second);
    reference_mass += std::exp(log_p);
    live_mass += std::exp(found->second);
  }
  divergence += rest_divergence(at_least_smallest(1.0 - reference_mass),
                                at_least_smallest(1.0 - live_mass), one_sided);
  return std::max(divergence, 0.0);
}

TokenComparison compare_token(std::uint64_t index, const StepStats& reference,
                              const StepStats& live, const TokenOptions& options) {
  TokenComparison token;
  token.index = index;
  token.recorded = reference.token;
  token.predicted = live.token;
  token.ulp = coarser_ulp(options, reference);
  token.logits_equal = same_logits(reference, live);
  token.nonfinite = holds_nonfinite(live) || holds_nonfinite(reference);
  measure_gap(reference, token);
  measure_live_gap(live, token);
  token.verdict = classify(token, options.tolerance_ulps);
  token.kl = kl_lower_bound(reference, live);
  measure_agreement(reference, live, token);
  token.delta_p = delta_p(reference, live);
  return token;
}

}  // namespace kvtool::analysis
