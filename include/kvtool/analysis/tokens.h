// One compared token: its class, and how far the two distributions are apart.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kvtool/analysis/flips.h"
#include "kvtool/analysis/kl.h"
#include "kvtool/analysis/logit_noise.h"
#include "kvtool/base/dtype.h"
#include "kvtool/format/recording.h"

namespace kvtool::analysis {

// Class of one predicted token. gap = reference logit of the recorded token
// minus reference logit of the predicted one; ulp at the recorded token's logit.
enum class TokenVerdict : std::uint8_t {
  kMatch,
  kTie,       // mismatch, gap <= 1 ulp
  kNoise,     // mismatch, gap <= the bound that the measured noise sets
  kNearTie,   // mismatch, gap <= near_tie_ulps ulp; only where no noise was measured
  kHardFlip,  // mismatch, larger or unknown gap, or a non-finite prediction
};
// "match", "tie", "noise", "near_tie", "hard_flip".
[[nodiscard]] std::string_view verdict_name(TokenVerdict verdict);

// Up to which gap a mismatch is explained; bounds are inclusive.
struct FlipBounds {
  double near_tie_ulps = 2.0;
  // Standard deviations of the difference of two logits, where noise was measured.
  double noise_z = 4.0;
};

struct TokenOptions {
  // The head's dtypes. ulp is that of the coarser one.
  DType reference_logits_dtype = DType::kFloat32;
  DType live_logits_dtype = DType::kFloat32;
  // Of 16 or 32 bits, what the layers below the head compute in: that of their K/V, the coarser
  // side's. float32 where it is not known.
  DType layer_dtype = DType::kFloat32;
  FlipBounds bounds = {};  // of near-ties and noise
  // Of the reference: which ids the sample is of. 0: it has none.
  std::uint32_t vocab_size = 0;
  // Both sides hold what shows noise (can_show_noise); else the ulp alone decides.
  bool measures_noise = false;
};

// index 0 is token 0 (from the prefill), index s + 1 the token that step s predicted.
struct TokenComparison {
  std::uint64_t index = 0;
  std::int32_t recorded = -1;
  std::int32_t predicted = -1;  // -1: no finite logit
  // Reference logit of the recorded token minus the best other one; NaN when top_k < 2.
  double margin = 0.0;
  // Reference logit of the recorded token minus that of the predicted one: 0 for
  // a match. When the predicted token is not among the recorded top-k it is the
  // least that it can be (gap_is_bound); NaN when nothing is known.
  double gap = 0.0;
  bool gap_is_bound = false;
  // Live logit of the predicted token minus that of the recorded one; NaN unless both
  // are among the live top-k.
  double live_gap = 0.0;
  double ulp = 0.0;
  TokenVerdict verdict = TokenVerdict::kMatch;
  bool logits_equal = false;  // top-k ids and logits, log-sum-exp and digest are bitwise equal
  bool nonfinite = false;     // the statistics of either side hold NaN or Inf
  // Lower bound of KL(reference || live) in nats from the recorded top-k plus
  // one tail bin; NaN when it cannot be computed (see kl_lower_bound).
  double kl = 0.0;
  KlEstimate kl_estimate;
  LogitNoise noise;
  // z * sqrt(2) * noise: the largest gap that noise explains, set by judge_noise(). NaN where
  // no noise was measured.
  double noise_bound = std::numeric_limits<double>::quiet_NaN();
  // That noise alone makes the live side choose another token, and one with a gap above both 1 ulp
  // and noise_bound; NaN where that cannot be told (docs/metrics.md, "Expected flips").
  double flip_probability = std::numeric_limits<double>::quiet_NaN();
  double hard_flip_probability = std::numeric_limits<double>::quiet_NaN();
  bool top1_agrees = false;  // the same best id
  // Common ids of both sides' best five (of fewer, when top_k is less), as a fraction.
  double top5_overlap = 0.0;
  // The same of the best hundred; nothing unless both sides recorded so many.
  std::optional<double> top100_overlap;
  // The live side's best id is one of the reference's best five (of fewer, when top_k is less).
  bool in_top5 = false;
  // Live probability of the recorded token minus the reference's; of the largest size that it
  // can have where the live side did not record that token, NaN when nothing is known.
  double delta_p = 0.0;

  // What the verdict holds against the ulp: the gap; where that is only a bound, the larger of
  // it and the live gap; NaN when nothing shows how large it is.
  [[nodiscard]] double judged_gap() const;
  // judged_gap() in units of the noise of a difference, noise_bound / z; NaN where that is unknown.
  [[nodiscard]] double gap_in_noise(double noise_z) const;
};

// What the tokens of a stretch leave behind until its noise is known; an entry a token.
using StretchCandidates = std::vector<std::vector<FlipCandidate>>;

// Everything but what needs the noise of the whole stretch: judge_noise() completes it. Appends
// to `candidates`.
[[nodiscard]] TokenComparison compare_token(std::uint64_t index, const format::StepStats& reference,
                                            const format::StepStats& live,
                                            const TokenOptions& options,
                                            StretchCandidates& candidates);

// Sets noise_bound, verdict and hard_flip_probability of tokens of one input and stretch. The
// noise that explains a token's gap is its own, but at most twice the median of these tokens (one
// wrong step does not excuse itself) and at least what rounding alone makes, ulp / sqrt(6).
void judge_noise(std::span<TokenComparison> tokens,
                 std::span<const std::vector<FlipCandidate>> candidates,
                 const TokenOptions& options);

}  // namespace kvtool::analysis
