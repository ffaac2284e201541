// One compared token: its class, and how far the two distributions are apart.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "kvtool/base/dtype.h"
#include "kvtool/format/recording.h"

namespace kvtool::analysis {

// Class of one predicted token. gap = reference logit of the recorded token
// minus reference logit of the predicted one; ulp at the recorded token's logit.
enum class TokenVerdict : std::uint8_t {
  kMatch,
  kTie,       // mismatch, gap <= 1 ulp
  kNearTie,   // mismatch, gap <= tolerance_ulps ulp
  kHardFlip,  // mismatch, larger or unknown gap, or a non-finite prediction
};
// "match", "tie", "near_tie", "hard_flip".
[[nodiscard]] std::string_view verdict_name(TokenVerdict verdict);

inline constexpr double kDefaultToleranceUlps = 2.0;

struct TokenOptions {
  // The head's dtypes. ulp is that of the coarser one.
  DType reference_logits_dtype = DType::kFloat32;
  DType live_logits_dtype = DType::kFloat32;
  double tolerance_ulps = kDefaultToleranceUlps;  // near-tie bound, inclusive
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
};

[[nodiscard]] TokenComparison compare_token(std::uint64_t index, const format::StepStats& reference,
                                            const format::StepStats& live,
                                            const TokenOptions& options);

// KL(P || Q) >= sum over bins of p log(p / q) for any partition of the
// vocabulary (log-sum inequality, Cover & Thomas, Elements of Information
// Theory, Thm 2.7.1). Bins: every id that both sides recorded, and one for all
// the rest, whose mass is 1 minus the others'. The rest is split in two, ids that
// only the reference recorded and all others, where the live side's last recorded
// logit leaves the former too little mass. float64; never negative. NaN when either
// side is not finite or records nothing. 0 when the logits are bitwise equal.
[[nodiscard]] double kl_lower_bound(const format::StepStats& reference,
                                    const format::StepStats& live);

}  // namespace kvtool::analysis
