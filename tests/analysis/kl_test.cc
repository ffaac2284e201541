#include "kvtool/analysis/kl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "analysis/token_stats.h"
#include "kvtool/format/logit_sample.h"

namespace kvtool::analysis {
namespace {

using format::StepStats;
using testing::IsNan;

// ---- Lower bound ---------------------------------------------------------------------

// Bins 1/2, 1/4 and the rest 1/4 against 1/4, 1/2, 1/4:
// 1/2 log 2 + 1/4 log 1/2 + 0 = 1/4 log 2.
TEST(KlLowerBound, GivesTheHandComputedValue) {
  const StepStats reference = distribution({1, 2}, {0.5, 0.25});
  const StepStats live = distribution({2, 1}, {0.5, 0.25});
  EXPECT_NEAR(kl_lower_bound(reference, live), 0.25 * std::log(2.0), 1e-7);
}

// The rest is a bin: 1/2 log(1/2 / 1/4) + 1/2 log(1/2 / 3/4).
TEST(KlLowerBound, CountsTheTail) {
  EXPECT_NEAR(kl_lower_bound(distribution({1}, {0.5}), distribution({1}, {0.25})),
              0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3.0), 1e-7);
}

// Live recorded only id 7 with 1/2, so id 1 has 1/2 at most: nothing is certain.
// With 1/8 as the last recorded mass it has at most that: 1/2 log(1/2 / 1/8) + 1/2 log(1/2 / 7/8).
TEST(KlLowerBound, BoundsWhatTheLiveSideDidNotRecord) {
  const StepStats reference = distribution({1}, {0.5});
  EXPECT_NEAR(kl_lower_bound(reference, distribution({7}, {0.5})), 0.0, 1e-12);
  EXPECT_NEAR(kl_lower_bound(reference, distribution({7, 8}, {0.75, 0.125})),
              0.5 * std::log(4.0) + 0.5 * std::log(4.0 / 7.0), 1e-7);
}

// A vocabulary of eight, every subset of which may be recorded.
TEST(KlLowerBound, NeverExceedsTheDivergenceOfTheWholeVocabulary) {
  const std::vector<double> p{0.30, 0.25, 0.20, 0.10, 0.06, 0.04, 0.03, 0.02};
  const std::vector<double> q{0.05, 0.30, 0.04, 0.25, 0.20, 0.02, 0.10, 0.04};
  const std::vector<std::int32_t> q_order{1, 3, 4, 6, 0, 2, 7, 5};
  double whole = 0.0;
  for (std::size_t i = 0; i < p.size(); ++i) whole += p[i] * std::log(p[i] / q[i]);
  double previous = 0.0;
  for (std::size_t top_k = 1; top_k <= p.size(); ++top_k) {
    std::vector<std::int32_t> p_ids;
    std::vector<std::int32_t> q_ids;
    std::vector<double> p_top;
    std::vector<double> q_top;
    for (std::size_t i = 0; i < top_k; ++i) {
      p_ids.push_back(static_cast<std::int32_t>(i));
      p_top.push_back(p[i]);
      q_ids.push_back(q_order[i]);
      q_top.push_back(q[static_cast<std::size_t>(q_order[i])]);
    }
    const double bound = kl_lower_bound(distribution(p_ids, p_top), distribution(q_ids, q_top));
    EXPECT_LE(bound, whole + 1e-7) << "top-" << top_k;
    EXPECT_GE(bound, previous - 1e-7) << "top-" << top_k;
    previous = bound;
  }
  EXPECT_NEAR(previous, whole, 1e-6);
}

// 1/2 log(...) of logits that differ by 2^-20: about p (1 - p) x^2 / 2.
TEST(KlLowerBound, KeepsTheDigitsOfSmallDifferences) {
  const double x = 0x1p-20;
  StepStats reference = distribution({1}, {0.5});
  StepStats live = reference;
  live.logsumexp = x;  // every recorded probability is e^-x of what it was
  const double p = std::exp(static_cast<double>(reference.top_logits[0]));
  const double expected = p * p / (1.0 - p) * x * x / 2.0 + p * x * x / 2.0;
  EXPECT_NEAR(kl_lower_bound(reference, live) / expected, 1.0, 1e-3);
}

TEST(KlLowerBound, RecordedMassAboveOneLeavesNoTail) {
  const StepStats reference = distribution({1, 2}, {0.75, 0.25 + 1e-7});
  const StepStats live = distribution({1, 2}, {0.75, 0.2499});
  EXPECT_EQ(kl_lower_bound(reference, reference), 0.0);
  EXPECT_TRUE(std::isfinite(kl_lower_bound(reference, live)));
  EXPECT_TRUE(std::isfinite(kl_lower_bound(live, reference)));
  EXPECT_GE(kl_lower_bound(live, reference), 0.0);
}

TEST(KlLowerBound, CertainTokenThatTheOtherSideExcludesIsLargeAndFinite) {
  const double kl = kl_lower_bound(stats({1}, {20.0F}), stats({7, 8}, {20.0F, -1000.0F}));
  EXPECT_TRUE(std::isfinite(kl));
  EXPECT_GT(kl, 600.0);
}

TEST(KlLowerBound, IsUnknownWithoutFiniteStatistics) {
  const StepStats fine = distribution({1, 2}, {0.5, 0.25});
  StepStats broken = fine;
  broken.top_logits[1] = kNan;
  EXPECT_TRUE(std::isnan(kl_lower_bound(fine, broken)));
  EXPECT_TRUE(std::isnan(kl_lower_bound(broken, fine)));
  EXPECT_TRUE(std::isnan(kl_lower_bound(fine, stats({}, {}))));
}

// ---- Estimate ------------------------------------------------------------------------

// The logits of a whole vocabulary on both sides.
struct WholeLogits {
  std::vector<float> reference;
  std::vector<float> live;

  [[nodiscard]] std::uint32_t vocab_size() const {
    return static_cast<std::uint32_t>(reference.size());
  }
};

// Gaussian logits, and on the live side Gaussian noise and a common shift.
WholeLogits random_logits(std::mt19937_64& random, std::size_t vocab_size, double deviation,
                          double noise) {
  std::normal_distribution<double> gaussian;
  WholeLogits logits;
  for (std::size_t i = 0; i < vocab_size; ++i) {
    const double logit = deviation * gaussian(random);
    logits.reference.push_back(static_cast<float>(logit));
    logits.live.push_back(static_cast<float>(logit + noise * gaussian(random) + 0.3));
  }
  return logits;
}

double log_sum_exp(const std::vector<float>& logits) {
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  return std::log(sum);
}

double true_kl(const WholeLogits& logits) {
  const double shift = log_sum_exp(logits.live) - log_sum_exp(logits.reference);
  const double logsumexp = log_sum_exp(logits.reference);
  double divergence = 0.0;
  for (std::size_t i = 0; i < logits.reference.size(); ++i) {
    const double difference = static_cast<double>(logits.reference[i]) - logits.live[i] + shift;
    divergence += std::exp(logits.reference[i] - logsumexp) * difference;
  }
  return divergence;
}

std::vector<std::int32_t> best_ids(const std::vector<float>& logits, std::size_t top_k) {
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto end = ids.begin() + static_cast<std::ptrdiff_t>(top_k);
  std::partial_sort(ids.begin(), end, ids.end(), [&](std::int32_t a, std::int32_t b) {
    const float of_a = logits[static_cast<std::size_t>(a)];
    const float of_b = logits[static_cast<std::size_t>(b)];
    return of_a > of_b || (of_a == of_b && a < b);
  });
  ids.erase(end, ids.end());
  return ids;
}

std::vector<float> logits_at(const std::vector<std::int32_t>& ids,
                             const std::vector<float>& logits) {
  std::vector<float> result;
  for (const std::int32_t id : ids) result.push_back(logits[static_cast<std::size_t>(id)]);
  return result;
}

// What a recording and its replay hold of one token.
struct TokenPair {
  StepStats reference;
  StepStats live;
  std::uint32_t vocab_size = 0;
  std::uint64_t token = 0;

  [[nodiscard]] KlEstimate estimate() const {
    return estimate_kl(reference, live, logit_deltas(reference, live), vocab_size, token);
  }
};

StepStats recorded(const std::vector<float>& logits, std::size_t top_k,
                   const std::vector<std::int32_t>& sample) {
  const std::vector<std::int32_t> ids = best_ids(logits, top_k);
  StepStats result = stats(ids, logits_at(ids, logits));
  result.logsumexp = log_sum_exp(logits);
  result.sampled_logits = logits_at(sample, logits);
  return result;
}

TokenPair observed(const WholeLogits& logits, std::size_t top_k, std::uint32_t sample,
                   std::uint64_t token) {
  const std::vector<std::int32_t> ids = format::sampled_ids(logits.vocab_size(), sample, token);
  TokenPair pair{.reference = recorded(logits.reference, top_k, ids),
                 .live = recorded(logits.live, top_k, ids),
                 .vocab_size = logits.vocab_size(),
                 .token = token};
  pair.live.at_reference_top = logits_at(pair.reference.top_ids, logits.live);
  return pair;
}

struct Mean {
  double value = 0.0;
  double standard_error = 0.0;
};

Mean mean_of(const std::vector<double>& values) {
  const auto count = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0.0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, std::sqrt(squares / (count - 1.0) / count)};
}

// Nearly all of the mass is outside of the top-k, and so is the divergence.
TEST(KlEstimate, MeanOfManyTokensIsThatOfTheWholeVocabulary) {
  std::mt19937_64 random(5);
  std::vector<double> estimates;
  std::vector<double> errors;
  double squared_standard_errors = 0.0;
  double divergence = 0.0;
  double bound = 0.0;
  constexpr std::size_t kTokens = 150;
  for (std::uint64_t token = 0; token < kTokens; ++token) {
    const WholeLogits logits = random_logits(random, 5000, 1.0, 0.05);
    const TokenPair pair = observed(logits, 32, 64, token);
    const KlEstimate estimate = pair.estimate();
    EXPECT_TRUE(estimate.reliable) << token;
    const double truth = true_kl(logits);
    estimates.push_back(estimate.value);
    errors.push_back(estimate.value - truth);
    squared_standard_errors += estimate.standard_error * estimate.standard_error;
    divergence += truth / kTokens;
    bound += kl_lower_bound(pair.reference, pair.live) / kTokens;
  }
  const Mean error = mean_of(errors);
  EXPECT_LE(std::abs(error.value), 3.0 * error.standard_error);
  EXPECT_NEAR(mean_of(estimates).value / divergence, 1.0, 0.05);
  EXPECT_LT(bound, 0.2 * divergence);
  // What a token says of its own error is right on the whole.
  const double claimed = std::sqrt(squared_standard_errors) / kTokens;
  EXPECT_NEAR(claimed / error.standard_error, 1.0, 0.3);
}

// Half the variance of deltas of deviation 0.05 is 0.00125.
TEST(KlEstimate, OfEqualLogitsIsHalfTheVarianceOfTheNoise) {
  std::mt19937_64 random(6);
  double sum = 0.0;
  for (std::uint64_t token = 0; token < 100; ++token) {
    sum += observed(random_logits(random, 1000, 0.0, 0.05), 8, 64, token).estimate().value;
  }
  EXPECT_NEAR(sum / 100.0, 0.00125, 0.00008);
}

TEST(KlEstimate, CommonShiftIsNoDivergence) {
  std::mt19937_64 random(7);
  const TokenPair shifted = observed(random_logits(random, 1000, 1.0, 0.0), 32, 64, 3);
  EXPECT_NEAR(shifted.estimate().value, 0.0, 1e-12);
  // The log-sum-exp moves along: without the shift the value is the same.
  WholeLogits logits = random_logits(random, 1000, 1.0, 0.05);
  const double value = observed(logits, 32, 64, 3).estimate().value;
  for (float& logit : logits.live) logit += 2.0F;
  EXPECT_NEAR(observed(logits, 32, 64, 3).estimate().value, value, 1e-6 * value + 1e-9);
}

// A sampled id with nearly all of the tail's mass is worth no eight equal ones.
TEST(KlEstimate, OfAPeakedTailIsMarkedUnreliable) {
  std::mt19937_64 random(8);
  WholeLogits logits = random_logits(random, 4000, 0.1, 0.05);
  const std::vector<std::int32_t> sample = format::sampled_ids(4000, 64, 9);
  EXPECT_TRUE(observed(logits, 8, 64, 9).estimate().reliable);
  for (std::size_t i = 0; i < 4; ++i) {
    logits.reference[static_cast<std::size_t>(sample[i])] = 20.0F;
    logits.live[static_cast<std::size_t>(sample[i])] = 20.25F;
  }
  // As best ids they are no part of the tail; with a top-k of three one of them is.
  EXPECT_TRUE(observed(logits, 8, 64, 9).estimate().reliable);
  const KlEstimate estimate = observed(logits, 3, 64, 9).estimate();
  EXPECT_FALSE(estimate.reliable);
  EXPECT_TRUE(std::isfinite(estimate.value));
}

TEST(KlEstimate, OfATailOfEightEqualIdsIsReliable) {
  StepStats reference = distribution({0}, {0.5});
  StepStats live = reference;
  reference.sampled_logits.assign(8, -4.0F);
  live.sampled_logits = {-3.5F, -4.5F, -3.5F, -4.5F, -3.5F, -4.5F, -3.5F, -4.5F};
  const auto estimate = [&] {
    return estimate_kl(reference, live, logit_deltas(reference, live), 1000, 1);
  };
  EXPECT_TRUE(estimate().reliable);
  // Half of 1/4, divided by 1 - 8 / 64, times the tail's half of the mass.
  EXPECT_NEAR(estimate().value, 0.5 * 0.125 / 0.875, 1e-7);
  EXPECT_NEAR(estimate().standard_error, 0.0, 1e-12) << "all have the same squared delta";
  reference.sampled_logits.pop_back();
  live.sampled_logits.pop_back();
  EXPECT_FALSE(estimate().reliable);
}

// Two ids of the sample's four are in the tail, of weights 3/4 and 1/4 and deltas 0.4 and -0.4
// (docs/metrics.md): mean 0.2, variance 0.12, divided by 1 - 10/16; the tail has 1/4 of the mass.
TEST(KlEstimate, GivesTheHandComputedValue) {
  const std::vector<std::int32_t> sample = format::sampled_ids(100, 4, 5);
  StepStats reference = distribution({sample[0], sample[2]}, {0.5, 0.25});
  StepStats live = reference;
  live.at_reference_top = reference.top_logits;
  const float base = -5.0F;
  reference.sampled_logits = {0.0F, base + std::log(3.0F), 0.0F, base};
  live.sampled_logits = {9.0F, base + std::log(3.0F) + 0.4F, -9.0F, base - 0.4F};
  const KlEstimate estimate = estimate_kl(reference, live, logit_deltas(reference, live), 100, 5);
  EXPECT_NEAR(estimate.value, 0.25 * 0.5 * 0.12 / 0.375, 1e-6);
  // Squared deltas from the mean 0.04 and 0.36: sqrt((3/4 * 0.08)^2 + (1/4 * 0.24)^2).
  EXPECT_NEAR(estimate.standard_error, 0.25 * 0.5 * std::sqrt(2.0) * 0.06 / 0.375, 1e-6);
  EXPECT_FALSE(estimate.reliable);
}

TEST(KlEstimate, IsExactWhereTheTopKIsTheVocabulary) {
  std::mt19937_64 random(9);
  const WholeLogits logits = random_logits(random, 40, 2.0, 0.5);
  const KlEstimate estimate = observed(logits, 40, 8, 2).estimate();
  EXPECT_NEAR(estimate.value / true_kl(logits), 1.0, 1e-9);
  EXPECT_EQ(estimate.standard_error, 0.0);
  EXPECT_TRUE(estimate.reliable);
}

// As in the comparison of two recordings whose best ids differ.
TEST(KlEstimate, OfAPartlyKnownTopKIsUnreliable) {
  std::mt19937_64 random(10);
  TokenPair pair = observed(random_logits(random, 1000, 1.0, 0.05), 32, 64, 4);
  EXPECT_TRUE(pair.estimate().reliable);
  pair.live.at_reference_top.clear();
  pair.live.top_ids.resize(16);
  pair.live.top_logits.resize(16);
  const KlEstimate estimate = pair.estimate();
  EXPECT_FALSE(estimate.reliable);
  EXPECT_TRUE(std::isfinite(estimate.value));
  EXPECT_GE(estimate.value, 0.0);
}

TEST(KlEstimate, IsNothingForEqualLogitsAndUnknownWithoutASample) {
  std::mt19937_64 random(11);
  TokenPair pair = observed(random_logits(random, 500, 1.0, 0.0), 32, 64, 4);
  pair.live = pair.reference;
  EXPECT_EQ(pair.estimate().value, 0.0);
  EXPECT_EQ(pair.estimate().standard_error, 0.0);
  TokenPair without = pair;
  without.live.sampled_logits.clear();
  EXPECT_THAT(without.estimate().value, IsNan());
  without = pair;
  without.reference.sampled_logits.clear();
  without.live.sampled_logits.clear();
  EXPECT_THAT(without.estimate().value, IsNan());
  EXPECT_FALSE(without.estimate().reliable);
  for (const bool of_live : {false, true}) {
    TokenPair broken = pair;
    (of_live ? broken.live : broken.reference).logsumexp = kInf;
    EXPECT_THAT(broken.estimate().value, IsNan());
    EXPECT_THAT(broken.estimate().standard_error, IsNan());
  }
}

// What is not finite in the sample alone says nothing of the others.
TEST(KlEstimate, LeavesOutSampledIdsThatAreNotFinite) {
  std::mt19937_64 random(12);
  TokenPair pair = observed(random_logits(random, 500, 1.0, 0.05), 8, 64, 4);
  const double value = pair.estimate().value;
  pair.live.sampled_logits[7] = kNan;
  const KlEstimate estimate = pair.estimate();
  EXPECT_TRUE(std::isfinite(estimate.value));
  EXPECT_NE(estimate.value, value);
  EXPECT_TRUE(estimate.reliable);
}

}  // namespace
}  // namespace kvtool::analysis
