#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kvtool/analysis/comparison.h"

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

struct Margin {
  double margin = kNaN;
  double ulp = kNaN;
};

// The recorded token is first in its own top-k, unless the recording comes from
// a generator that is not greedy; so it is looked for.
Margin reference_margin(DType logits_dtype, const StepStats& reference) {
  const std::size_t count = std::min(reference.top_ids.size(), reference.top_logits.size());
  double recorded = kNaN;
  double best_other = kNaN;
  for (std::size_t i = 0; i < count; ++i) {
    const double logit = reference.top_logits[i];
    if (reference.top_ids[i] == reference.token) {
      recorded = logit;
    } else if (std::isnan(best_other)) {
      best_other = logit;
    }
  }
  return {.margin = recorded - best_other, .ulp = ulp(logits_dtype, recorded)};
}

TokenVerdict classify(const TokenComparison& token, double tolerance_ulps) {
  if (token.predicted < 0) return TokenVerdict::kHardFlip;
  if (token.predicted == token.recorded) return TokenVerdict::kMatch;
  if (token.nonfinite) return TokenVerdict::kHardFlip;
  // A NaN margin (unknown) fails both bounds: what cannot be shown to be a tie is none.
  if (token.margin <= token.ulp) return TokenVerdict::kTie;
  if (token.margin <= tolerance_ulps * token.ulp) return TokenVerdict::kNearTie;
  return TokenVerdict::kHardFlip;
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

TokenComparison compare_token(std::uint64_t index, DType logits_dtype, const StepStats& reference,
                              const StepStats& live, const ComparisonOptions& options) {
  const Margin margin = reference_margin(logits_dtype, reference);
  TokenComparison token;
  token.index = index;
  token.recorded = reference.token;
  token.predicted = live.token;
  token.margin = margin.margin;
  token.ulp = margin.ulp;
  token.logits_equal = same_logits(reference, live);
  token.nonfinite = holds_nonfinite(live);
  token.verdict = classify(token, options.tolerance_ulps);
  return token;
}

}  // namespace kvtool::analysis
