// How many other choices noise alone makes. docs/metrics.md, "Expected flips".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kvtool/analysis/logit_noise.h"
#include "kvtool/format/recording.h"

namespace kvtool::analysis {

// One of the reference's best ids. The first of a list is the one that it chose.
struct FlipCandidate {
  float gap = 0.0F;        // the chosen logit minus this one: 0 or more
  float delta = 0.0F;      // live logit minus the reference's
  bool wins_ties = false;  // its id is lower than the chosen one's
};

// The best candidates of which both logits are known, at most kMostCandidates. Empty when the
// first of the reference's list is not the chosen token, or its live logit is not known, or fewer
// than kFewestDeltas are.
inline constexpr std::size_t kMostCandidates = 64;
[[nodiscard]] std::vector<FlipCandidate> flip_candidates(const format::StepStats& reference,
                                                         const LogitDeltas& deltas);

// A permutation test: the share of all ways to hand the measured deltas to the candidates in which
// one with a gap above `beyond` overtakes the first. Where noise does not know which id it meets,
// each way is as likely as the one that happened. Exact; 0 for no candidates.
[[nodiscard]] double flip_probability(std::span<const FlipCandidate> candidates,
                                      double beyond = -1.0);

// P(X >= observed) for the sum X of independent trials of these probabilities (Poisson-binomial
// distribution), summed exactly; where that would take more than 10^9 steps, Chernoff's bound,
// which is never less (W. Hoeffding, Journal of the American Statistical Association 58, 1963).
[[nodiscard]] double upper_tail(std::span<const double> probabilities, std::uint64_t observed);

}  // namespace kvtool::analysis
