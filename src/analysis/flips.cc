#include "kvtool/analysis/flips.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace kvtool::analysis {
namespace {

constexpr std::uint64_t kMostSteps = 1000000000;

double as_double(std::size_t count) { return static_cast<double>(count); }

// How many of the ascending values, without the one at `taken`, leave a candidate of this gap
// behind a first one whose delta is that one.
std::size_t harmless(const FlipCandidate& candidate, std::span<const double> ascending,
                     std::size_t taken) {
  const double limit = static_cast<double>(candidate.gap) + ascending[taken];
  const auto end = candidate.wins_ties
                       ? std::lower_bound(ascending.begin(), ascending.end(), limit)
                       : std::upper_bound(ascending.begin(), ascending.end(), limit);
  const auto count = static_cast<std::size_t>(end - ascending.begin());
  return taken < count ? count - 1 : count;
}

// Of the ways to hand out the other values, the share in which nobody overtakes. The sets of
// harmless values are nested, so that the candidate with the smallest set chooses first, the next
// one of what is left of its own, and so on.
double share_kept(std::span<const FlipCandidate> others, std::span<const double> ascending,
                  std::size_t taken, std::vector<std::size_t>& counts) {
  counts.clear();
  for (const FlipCandidate& candidate : others) {
    counts.push_back(harmless(candidate, ascending, taken));
  }
  std::sort(counts.begin(), counts.end());
  double share = 1.0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] <= i) return 0.0;
    share *= as_double(counts[i] - i) / as_double(ascending.size() - 1 - i);
  }
  return share;
}

double exact_tail(std::span<const double> probabilities, std::uint64_t observed) {
  // Chances of 0, 1, ... successes below `observed`; what reaches it stays there.
  std::vector<double> chances(observed, 0.0);
  chances[0] = 1.0;
  double tail = 0.0;
  for (const double p : probabilities) {
    if (p <= 0.0) continue;
    tail += chances[observed - 1] * p;
    for (std::size_t count = observed - 1; count > 0; --count) {
      chances[count] = chances[count] * (1.0 - p) + chances[count - 1] * p;
    }
    chances[0] *= 1.0 - p;
  }
  return std::min(tail, 1.0);
}

// exp(-n D(observed / n || mean)), 1 where no more than the mean was observed.
double chernoff_bound(std::span<const double> probabilities, std::uint64_t observed) {
  const double n = as_double(probabilities.size());
  const double mean = std::accumulate(probabilities.begin(), probabilities.end(), 0.0) / n;
  const double rate = static_cast<double>(observed) / n;
  if (rate <= mean) return 1.0;
  if (mean <= 0.0) return 0.0;
  double divergence = rate * std::log(rate / mean);
  if (rate < 1.0) divergence += (1.0 - rate) * std::log((1.0 - rate) / (1.0 - mean));
  return std::exp(-n * divergence);
}

}  // namespace

std::vector<FlipCandidate> flip_candidates(const format::StepStats& reference,
                                           const LogitDeltas& deltas) {
  std::vector<FlipCandidate> candidates;
  const std::size_t count = std::min(deltas.top.size(), kMostCandidates);
  if (count == 0 || reference.top_ids.front() != reference.token) return {};
  const std::int32_t chosen = reference.top_ids.front();
  const double best = reference.top_logits.front();
  if (std::isnan(deltas.top.front())) return {};
  for (std::size_t i = 0; i < count; ++i) {
    if (std::isnan(deltas.top[i])) continue;
    candidates.push_back({.gap = static_cast<float>(best - reference.top_logits[i]),
                          .delta = static_cast<float>(deltas.top[i]),
                          .wins_ties = reference.top_ids[i] < chosen});
  }
  if (candidates.size() < kFewestDeltas) return {};
  return candidates;
}

double flip_probability(std::span<const FlipCandidate> candidates, double beyond) {
  if (candidates.empty()) return 0.0;
  std::vector<double> ascending;
  for (const FlipCandidate& each : candidates) ascending.push_back(each.delta);
  std::sort(ascending.begin(), ascending.end());
  const double range = ascending.back() - ascending.front();
  // Gaps ascend: the list is by logit.
  std::vector<FlipCandidate> others;
  for (const FlipCandidate& each : candidates.subspan(1)) {
    if (each.gap > beyond && each.gap <= range) others.push_back(each);
  }
  if (others.empty()) return 0.0;
  std::vector<std::size_t> counts;
  double kept = 0.0;
  for (std::size_t taken = 0; taken < ascending.size(); ++taken) {
    kept += share_kept(others, ascending, taken, counts);
  }
  return std::clamp(1.0 - kept / as_double(ascending.size()), 0.0, 1.0);
}

double upper_tail(std::span<const double> probabilities, std::uint64_t observed) {
  if (observed == 0) return 1.0;
  if (observed > probabilities.size()) return 0.0;
  if (probabilities.size() > kMostSteps / observed) return chernoff_bound(probabilities, observed);
  return exact_tail(probabilities, observed);
}

}  // namespace kvtool::analysis
