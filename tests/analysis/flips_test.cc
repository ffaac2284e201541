// Against brute force: every permutation of the deltas, judged by the greedy choice itself.
#include "kvtool/analysis/flips.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "analysis/token_stats.h"

namespace kvtool::analysis {
namespace {

using format::StepStats;
using testing::IsEmpty;
using testing::SizeIs;

// ---- Candidates ----------------------------------------------------------------------

// Ids 20, 19, 22, 17, 24, ...: every other one is below the chosen one's.
StepStats ten_best() {
  std::vector<std::int32_t> ids;
  std::vector<float> logits;
  for (std::int32_t i = 0; i < 10; ++i) {
    ids.push_back(i % 2 == 0 ? 20 + i : 20 - i);
    logits.push_back(17.0F - 0.5F * static_cast<float>(i));
  }
  return stats(std::move(ids), std::move(logits));
}

LogitDeltas deltas_of(std::size_t count) {
  LogitDeltas deltas;
  for (std::size_t i = 0; i < count; ++i) deltas.top.push_back(0.25 * static_cast<double>(i));
  return deltas;
}

TEST(FlipCandidates, HoldGapDeltaAndWhoWinsTies) {
  const std::vector<FlipCandidate> candidates = flip_candidates(ten_best(), deltas_of(10));
  ASSERT_THAT(candidates, SizeIs(10));
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    EXPECT_EQ(candidates[i].gap, 0.5F * static_cast<float>(i));
    EXPECT_EQ(candidates[i].delta, 0.25F * static_cast<float>(i));
    EXPECT_EQ(candidates[i].wins_ties, i % 2 == 1) << i;
  }
}

TEST(FlipCandidates, LeaveOutWhatIsUnknown) {
  LogitDeltas deltas = deltas_of(10);
  deltas.top[3] = deltas.top[9] = kNan;
  const std::vector<FlipCandidate> candidates = flip_candidates(ten_best(), deltas);
  ASSERT_THAT(candidates, SizeIs(8));
  EXPECT_EQ(candidates[3].gap, 2.0F);
  deltas.top[5] = kNan;
  EXPECT_THAT(flip_candidates(ten_best(), deltas), IsEmpty()) << "seven deltas are too few";
}

TEST(FlipCandidates, NeedTheChosenTokenFirstAndKnown) {
  StepStats sampled = ten_best();
  sampled.token = sampled.top_ids[1];
  EXPECT_THAT(flip_candidates(sampled, deltas_of(10)), IsEmpty());
  LogitDeltas deltas = deltas_of(10);
  deltas.top[0] = kNan;
  EXPECT_THAT(flip_candidates(ten_best(), deltas), IsEmpty());
  EXPECT_THAT(flip_candidates(stats({}, {}), {}), IsEmpty());
}

TEST(FlipCandidates, AreTheBestSixtyFour) {
  StepStats reference;
  for (std::int32_t i = 0; i < 100; ++i) {
    reference.top_ids.push_back(i);
    reference.top_logits.push_back(static_cast<float>(-i));
  }
  reference.token = 0;
  const std::vector<FlipCandidate> candidates = flip_candidates(reference, deltas_of(100));
  ASSERT_THAT(candidates, SizeIs(64));
  EXPECT_EQ(candidates.back().gap, 63.0F);
}

// ---- Probability of a flip -----------------------------------------------------------

// Whether candidate `i` is chosen before the first where each has the delta of `order`.
bool overtakes(std::span<const FlipCandidate> candidates, std::span<const std::size_t> order,
               std::size_t i) {
  const double first = candidates[order[0]].delta;
  const double other = static_cast<double>(candidates[order[i]].delta) - candidates[i].gap;
  return other > first || (other == first && candidates[i].wins_ties);
}

// Of the choice among all: the lowest id among the largest logits. The chosen token has id 100.
bool choice_changes(std::span<const FlipCandidate> candidates, std::span<const std::size_t> order) {
  std::size_t best = 0;
  double best_logit = -std::numeric_limits<double>::infinity();
  std::size_t best_id = 0;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const double logit = static_cast<double>(candidates[order[i]].delta) - candidates[i].gap;
    const std::size_t id = i == 0 ? 100 : (candidates[i].wins_ties ? i : 100 + i);
    if (logit > best_logit || (logit == best_logit && id < best_id)) {
      best = i;
      best_logit = logit;
      best_id = id;
    }
  }
  return best != 0;
}

bool one_beyond_overtakes(std::span<const FlipCandidate> candidates,
                          std::span<const std::size_t> order, double beyond) {
  for (std::size_t i = 1; i < candidates.size(); ++i) {
    if (candidates[i].gap > beyond && overtakes(candidates, order, i)) return true;
  }
  return false;
}

// Over all permutations: the share with another choice, and that with an overtaker beyond.
struct Shares {
  double flips = 0.0;
  double beyond = 0.0;
};

Shares shares_of_all(std::span<const FlipCandidate> candidates, double beyond) {
  std::vector<std::size_t> order(candidates.size());
  std::iota(order.begin(), order.end(), 0);
  std::uint64_t all = 0;
  std::uint64_t flips = 0;
  std::uint64_t flips_beyond = 0;
  do {
    ++all;
    flips += choice_changes(candidates, order) ? 1 : 0;
    flips_beyond += one_beyond_overtakes(candidates, order, beyond) ? 1 : 0;
  } while (std::next_permutation(order.begin(), order.end()));
  return {static_cast<double>(flips) / static_cast<double>(all),
          static_cast<double>(flips_beyond) / static_cast<double>(all)};
}

std::vector<FlipCandidate> random_candidates(std::mt19937_64& random, std::size_t count,
                                             bool lattice) {
  std::uniform_int_distribution<int> steps(-3, 3);
  std::normal_distribution<float> gaussian;
  std::vector<FlipCandidate> candidates(count);
  for (FlipCandidate& each : candidates) {
    each.gap = lattice ? 0.125F * static_cast<float>(std::abs(steps(random)))
                       : std::abs(1.5F * gaussian(random));
    each.delta = lattice ? 0.125F * static_cast<float>(steps(random)) : gaussian(random);
    each.wins_ties = each.gap > 0.0F && steps(random) > 0;
  }
  std::sort(candidates.begin(), candidates.end(),
            [](const FlipCandidate& a, const FlipCandidate& b) { return a.gap < b.gap; });
  candidates.front() = {.gap = 0.0F, .delta = candidates.front().delta, .wins_ties = false};
  return candidates;
}

TEST(FlipProbability, IsTheShareOfAllPermutations) {
  std::mt19937_64 random(3);
  int of_some = 0;
  for (const std::size_t count : {2U, 3U, 4U, 5U, 6U, 7U, 8U}) {
    const int rounds = count == 8 ? 6 : 40;
    for (int round = 0; round < rounds; ++round) {
      const bool lattice = round % 2 == 0;
      const std::vector<FlipCandidate> candidates = random_candidates(random, count, lattice);
      const double beyond = lattice ? 0.125 : 0.5;
      const Shares shares = shares_of_all(candidates, beyond);
      ASSERT_NEAR(flip_probability(candidates), shares.flips, 1e-12) << count << " " << round;
      ASSERT_NEAR(flip_probability(candidates, beyond), shares.beyond, 1e-12);
      of_some += shares.beyond > 0.0 && shares.beyond < shares.flips && shares.flips < 1.0 ? 1 : 0;
    }
  }
  EXPECT_GT(of_some, 60) << "many cases are no trivial ones";
}

// Deltas -1, 0, 1 and gaps 0, 1, 3 (docs/metrics.md): the second overtakes the first with 1
// against -1 alone, which its higher id needs; a lower id is chosen with 0 against -1 and with
// 1 against 0, too. A gap of 3 is more than all deltas make.
TEST(FlipProbability, GivesTheHandComputedValue) {
  std::vector<FlipCandidate> candidates{{.gap = 0.0F, .delta = 1.0F, .wins_ties = false},
                                        {.gap = 1.0F, .delta = 0.0F, .wins_ties = false},
                                        {.gap = 3.0F, .delta = -1.0F, .wins_ties = false}};
  EXPECT_DOUBLE_EQ(flip_probability(candidates), 1.0 / 6.0);
  candidates[1].wins_ties = true;
  EXPECT_DOUBLE_EQ(flip_probability(candidates), 3.0 / 6.0);
  EXPECT_EQ(flip_probability(candidates, 1.0), 0.0) << "no candidate has a gap above 1";
}

TEST(FlipProbability, WithoutNoiseOrCandidatesIsNothing) {
  EXPECT_EQ(flip_probability({}), 0.0);
  std::vector<FlipCandidate> candidates(10);
  EXPECT_EQ(flip_probability(candidates), 0.0) << "equal logits stay equal: the lowest id stays";
  for (FlipCandidate& each : candidates) each.delta = 0.5F;
  EXPECT_EQ(flip_probability(candidates), 0.0) << "a common shift";
  candidates[3].delta = 1.0F;
  for (std::size_t i = 1; i < 10; ++i) candidates[i].gap = 0.6F;
  EXPECT_EQ(flip_probability(candidates), 0.0) << "gaps above all differences";
}

TEST(FlipProbability, OnlyTheLargestDeltaKeepsTheFirstOfEquals) {
  std::vector<FlipCandidate> candidates(4);
  for (std::size_t i = 0; i < 4; ++i) candidates[i].delta = static_cast<float>(i);
  EXPECT_DOUBLE_EQ(flip_probability(candidates), 3.0 / 4.0);
}

TEST(FlipProbability, OfSixtyFourCandidatesIsThatOfManyShuffles) {
  std::mt19937_64 random(4);
  std::vector<FlipCandidate> candidates = random_candidates(random, 64, false);
  for (FlipCandidate& each : candidates) each.gap *= 4.0F;
  std::vector<std::size_t> order(64);
  std::iota(order.begin(), order.end(), 0);
  constexpr int kShuffles = 20000;
  constexpr double kBeyond = 1.0;
  int flips = 0;
  int flips_beyond = 0;
  for (int i = 0; i < kShuffles; ++i) {
    std::shuffle(order.begin(), order.end(), random);
    flips += choice_changes(candidates, order) ? 1 : 0;
    flips_beyond += one_beyond_overtakes(candidates, order, kBeyond) ? 1 : 0;
  }
  // Four standard errors of a share are at most 0.0142.
  const double flip = flip_probability(candidates);
  const double beyond = flip_probability(candidates, kBeyond);
  EXPECT_NEAR(flip, static_cast<double>(flips) / kShuffles, 0.0142);
  EXPECT_NEAR(beyond, static_cast<double>(flips_beyond) / kShuffles, 0.0142);
  EXPECT_GT(beyond, 0.1);
  EXPECT_GT(flip, beyond + 0.05);
  EXPECT_LT(flip, 0.95);
}

// ---- Tail of the sum -----------------------------------------------------------------

double log_binomial(int trials, int successes, double p) {
  return std::lgamma(trials + 1.0) - std::lgamma(successes + 1.0) -
         std::lgamma(trials - successes + 1.0) + successes * std::log(p) +
         (trials - successes) * std::log1p(-p);
}

double binomial_tail(int trials, int observed, double p) {
  double sum = 0.0;
  for (int k = trials; k >= observed; --k) sum += std::exp(log_binomial(trials, k, p));
  return sum;
}

TEST(UpperTail, OfEqualProbabilitiesIsTheBinomialOne) {
  for (const double p : {0.01, 0.3, 0.9}) {
    const std::vector<double> probabilities(60, p);
    for (int observed = 1; observed <= 60; ++observed) {
      const double expected = binomial_tail(60, observed, p);
      EXPECT_NEAR(upper_tail(probabilities, static_cast<std::uint64_t>(observed)) / expected, 1.0,
                  1e-9)
          << p << " " << observed;
    }
  }
}

// All ways in which ten trials can end.
TEST(UpperTail, OfDifferentProbabilitiesIsTheSumOverAllOutcomes) {
  const std::vector<double> probabilities{0.5, 0.01, 0.3, 1.0, 0.0, 0.9, 1e-4, 0.2, 0.7, 0.05};
  std::vector<double> tails(12, 0.0);
  for (unsigned outcome = 0; outcome < 1U << 10U; ++outcome) {
    double chance = 1.0;
    std::size_t successes = 0;
    for (std::size_t i = 0; i < 10; ++i) {
      const bool success = ((outcome >> i) & 1U) != 0;
      chance *= success ? probabilities[i] : 1.0 - probabilities[i];
      successes += success ? 1 : 0;
    }
    for (std::size_t least = 0; least <= successes; ++least) tails[least] += chance;
  }
  for (std::size_t observed = 0; observed < tails.size(); ++observed) {
    EXPECT_NEAR(upper_tail(probabilities, observed), tails[observed], 1e-14) << observed;
  }
}

TEST(UpperTail, OfCertainAndImpossibleTrialsIsCertainOrImpossible) {
  EXPECT_EQ(upper_tail({}, 0), 1.0);
  EXPECT_EQ(upper_tail({}, 1), 0.0);
  const std::vector<double> never(5, 0.0);
  EXPECT_EQ(upper_tail(never, 0), 1.0);
  EXPECT_EQ(upper_tail(never, 1), 0.0);
  const std::vector<double> always(5, 1.0);
  EXPECT_EQ(upper_tail(always, 5), 1.0);
  EXPECT_EQ(upper_tail(always, 6), 0.0);
}

// 1 minus the chance of less would be 0.
TEST(UpperTail, KeepsTheDigitsOfSmallTails) {
  const std::vector<double> probabilities(10, 1e-7);
  // C(10, 5) p^5 (1 + O(p)).
  EXPECT_NEAR(upper_tail(probabilities, 5) / 252e-35, 1.0, 1e-5);
  EXPECT_NEAR(upper_tail(std::vector{1e-15, 1e-15, 0.5}, 2) / 1e-15, 1.0, 1e-9);
}

// Of too many trials for the exact sum: half of them have 0.6, half 0.8.
TEST(UpperTail, OfVeryManyTrialsIsNoLessThanTheExactOne) {
  constexpr int kHalf = 20000;
  std::vector<double> probabilities(kHalf, 0.6);
  probabilities.resize(2 * std::size_t{kHalf}, 0.8);
  std::vector<double> second_tail(kHalf + 2, 0.0);
  for (int k = kHalf; k >= 0; --k) {
    const auto place = static_cast<std::size_t>(k);
    second_tail[place] = second_tail[place + 1] + std::exp(log_binomial(kHalf, k, 0.8));
  }
  // The mean is 28,000 and the deviation 89.
  for (const int observed : {27000, 28001, 28100, 28500, 29000}) {
    double exact = 0.0;
    for (int k = 0; k <= kHalf; ++k) {
      const int needed = std::clamp(observed - k, 0, kHalf + 1);
      exact +=
          std::exp(log_binomial(kHalf, k, 0.6)) * second_tail[static_cast<std::size_t>(needed)];
    }
    const double bound = upper_tail(probabilities, static_cast<std::uint64_t>(observed));
    EXPECT_GE(bound, exact * (1.0 - 1e-9)) << observed;
    EXPECT_LE(bound, 1.0) << observed;
    if (observed >= 28500) {
      EXPECT_NEAR(std::log(bound) / std::log(exact), 1.0, 0.25) << observed;
    }
  }
  const std::vector<double> never(40000, 0.0);
  EXPECT_EQ(upper_tail(never, 30000), 0.0);
  const std::vector<double> always(40000, 1.0);
  EXPECT_EQ(upper_tail(always, 40000), 1.0);
}

}  // namespace
}  // namespace kvtool::analysis
