// How far the live distribution is from the reference's, in nats. docs/metrics.md, "KL lower bound"
// and "KL estimate".
#pragma once

#include <cstdint>
#include <limits>

#include "kvtool/analysis/logit_noise.h"
#include "kvtool/format/recording.h"

namespace kvtool::analysis {

// KL(P || Q) >= sum over bins of p log(p / q) for any partition of the
// vocabulary (log-sum inequality, Cover & Thomas, Elements of Information
// Theory, Thm 2.7.1). Bins: every id that both sides recorded, and one for all
// the rest, whose mass is 1 minus the others'. The rest is split in two, ids that
// only the reference recorded and all others, where the live side's last recorded
// logit leaves the former too little mass. float64; never negative. NaN when either
// side is not finite or records nothing. 0 when the logits are bitwise equal.
[[nodiscard]] double kl_lower_bound(const format::StepStats& reference,
                                    const format::StepStats& live);

struct KlEstimate {
  double value = std::numeric_limits<double>::quiet_NaN();
  // Of the value, as far as it is an estimate: from the sample of the tail.
  double standard_error = std::numeric_limits<double>::quiet_NaN();
  // The sampled tail is worth eight equal ids or more, and all of the top-k is known.
  bool reliable = false;
};

// By the chain rule: KL over {each of the reference's top-k, all the rest}, plus the rest's mass
// times KL inside of it. The latter is half the variance of the deltas of the sampled ids that are
// not in the top-k, each weighted by its probability, divided by 1 minus the sum of squared weights
// (to second order in the deltas; self-normalized importance sampling, A. Owen, Monte Carlo theory,
// methods and examples, ch. 9). `token` counts from 0, the prefill's. All NaN when either side is
// not finite, has no top-k or no sample.
[[nodiscard]] KlEstimate estimate_kl(const format::StepStats& reference,
                                     const format::StepStats& live, const LogitDeltas& deltas,
                                     std::uint32_t vocab_size, std::uint64_t token);

}  // namespace kvtool::analysis
