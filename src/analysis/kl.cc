#include "kvtool/analysis/kl.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "kvtool/format/logit_sample.h"
#include "recorded_logits.h"

namespace kvtool::analysis {
namespace {

using format::StepStats;

// Fewer equal weights than the sampled tail's are worth say too little of it.
constexpr double kFewestEffectiveIds = 8.0;

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

// One sampled id outside of the top-k.
struct TailId {
  double log_weight = 0.0;
  double delta = 0.0;
};

std::vector<TailId> sampled_tail(const StepStats& reference, const LogitDeltas& deltas,
                                 std::uint32_t vocab_size, std::uint64_t token) {
  const std::unordered_set<std::int32_t> best(reference.top_ids.begin(), reference.top_ids.end());
  const auto size = static_cast<std::uint32_t>(deltas.sample.size());
  const std::vector<std::int32_t> ids = format::sampled_ids(vocab_size, size, token);
  std::vector<TailId> tail;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (best.contains(ids[i]) || std::isnan(deltas.sample[i])) continue;
    tail.push_back({reference.sampled_logits[i] - reference.logsumexp, deltas.sample[i]});
  }
  return tail;
}

// KL inside of the tail, its standard error, and how many equal ids the sample is worth.
struct TailDivergence {
  double value = 0.0;
  double standard_error = 0.0;
  double effective_ids = 0.0;
};

TailDivergence tail_divergence(std::vector<TailId> tail) {
  if (tail.size() < 2) return {};
  const double largest = std::max_element(tail.begin(), tail.end(), [](auto& a, auto& b) {
                           return a.log_weight < b.log_weight;
                         })->log_weight;
  double total = 0.0;
  for (const TailId& id : tail) total += std::exp(id.log_weight - largest);
  double mean = 0.0;
  double squared_weights = 0.0;
  std::vector<double> weights;
  for (const TailId& id : tail) {
    const double weight = std::exp(id.log_weight - largest) / total;
    weights.push_back(weight);
    mean += weight * id.delta;
    squared_weights += weight * weight;
  }
  const double correction = 1.0 - squared_weights;
  if (correction <= 0.0) return {};
  double variance = 0.0;
  for (std::size_t i = 0; i < tail.size(); ++i) {
    const double delta = tail[i].delta - mean;
    variance += weights[i] * delta * delta;
  }
  double spread = 0.0;
  for (std::size_t i = 0; i < tail.size(); ++i) {
    const double delta = tail[i].delta - mean;
    const double share = weights[i] * (delta * delta - variance);
    spread += share * share;
  }
  return {.value = 0.5 * variance / correction,
          .standard_error = 0.5 * std::sqrt(spread) / correction,
          .effective_ids = 1.0 / squared_weights};
}

}  // namespace

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

KlEstimate estimate_kl(const StepStats& reference, const StepStats& live, const LogitDeltas& deltas,
                       std::uint32_t vocab_size, std::uint64_t token) {
  if (holds_nonfinite(reference) || holds_nonfinite(live)) return {};
  if (deltas.top.empty() || deltas.sample.empty()) return {};
  // A common shift moves the log-sum-exp along.
  const double shift = live.logsumexp - reference.logsumexp;
  double divergence = 0.0;
  double reference_mass = 0.0;
  double live_mass = 0.0;
  bool all_known = true;
  for (std::size_t i = 0; i < deltas.top.size(); ++i) {
    const double log_p = reference.top_logits[i] - reference.logsumexp;
    const double log_q = log_p + deltas.top[i] - shift;
    all_known = all_known && !std::isnan(log_q);
    if (std::isnan(log_q)) continue;
    divergence += divergence_share(log_p, log_q);
    reference_mass += std::exp(log_p);
    live_mass += std::exp(log_q);
  }
  if (all_known && deltas.top.size() == vocab_size) {
    return {.value = std::max(divergence, 0.0), .standard_error = 0.0, .reliable = true};
  }
  const double rest = at_least_smallest(1.0 - reference_mass);
  divergence += divergence_share(std::log(rest), std::log(at_least_smallest(1.0 - live_mass)));
  const TailDivergence tail = tail_divergence(sampled_tail(reference, deltas, vocab_size, token));
  return {.value = std::max(divergence, 0.0) + rest * tail.value,
          .standard_error = rest * tail.standard_error,
          .reliable = all_known && tail.effective_ids >= kFewestEffectiveIds};
}

}  // namespace kvtool::analysis
