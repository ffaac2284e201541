// Classes of mismatches by the noise that was measured. An ulp is 0.0625 in all of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "analysis/token_stats.h"
#include "kvtool/analysis/tokens.h"

namespace kvtool::analysis {
namespace {

using testing::IsNan;

constexpr double kUlp = 0.0625;
constexpr double kSqrt2 = std::numbers::sqrt2;

// A mismatch with this gap, in a step with this noise of the best logits.
TokenComparison mismatch(double gap, double noise) {
  TokenComparison token;
  token.recorded = 5;
  token.predicted = 9;
  token.gap = gap;
  token.ulp = kUlp;
  token.noise.top = noise;
  return token;
}

TokenComparison match(double noise) {
  TokenComparison token = mismatch(0.0, noise);
  token.predicted = token.recorded;
  return token;
}

std::vector<TokenComparison> judged(std::vector<TokenComparison> tokens, FlipBounds bounds = {}) {
  const StretchCandidates candidates(tokens.size());
  judge_noise(tokens, candidates, {.bounds = bounds});
  return tokens;
}

TokenVerdict verdict(double gap, double noise, FlipBounds bounds = {}) {
  return judged({mismatch(gap, noise)}, bounds).front().verdict;
}

TEST(JudgeNoise, BoundsAreInclusive) {
  constexpr double kNoise = 0.05;
  const double bound = 4.0 * kSqrt2 * kNoise;
  EXPECT_NEAR(bound, 0.2828, 5e-5);
  EXPECT_EQ(verdict(0.0, kNoise), TokenVerdict::kTie);
  EXPECT_EQ(verdict(kUlp, kNoise), TokenVerdict::kTie);
  EXPECT_EQ(verdict(std::nextafter(kUlp, 1.0), kNoise), TokenVerdict::kNoise);
  EXPECT_EQ(verdict(0.25, kNoise), TokenVerdict::kNoise);
  EXPECT_EQ(verdict(bound, kNoise), TokenVerdict::kNoise);
  EXPECT_EQ(verdict(std::nextafter(bound, 1.0), kNoise), TokenVerdict::kHardFlip);
  EXPECT_DOUBLE_EQ(judged({mismatch(0.25, kNoise)}).front().noise_bound, bound);
}

// Two logits that are rounded to neighbours, one up and one down: a gap of 2 ulp, whatever the
// other logits show. 4 sqrt(2) / sqrt(6) = 2.31.
TEST(JudgeNoise, IsAtLeastWhatRoundingMakes) {
  for (const double noise : {0.0, 0.001, 0.4 * kUlp}) {
    EXPECT_EQ(verdict(kUlp, noise), TokenVerdict::kTie) << noise;
    EXPECT_EQ(verdict(2.0 * kUlp, noise), TokenVerdict::kNoise) << noise;
    EXPECT_EQ(verdict(3.0 * kUlp, noise), TokenVerdict::kHardFlip) << noise;
  }
  EXPECT_NEAR(judged({match(0.0)}).front().noise_bound, 2.3094 * kUlp, 1e-4 * kUlp);
  // So it is where the median is 0, since most steps are equal to the bit.
  std::vector<TokenComparison> tokens(9, match(0.0));
  tokens.push_back(mismatch(2.0 * kUlp, 0.03));
  EXPECT_EQ(judged(tokens).back().verdict, TokenVerdict::kNoise);
  tokens.back().gap = 3.0 * kUlp;
  EXPECT_EQ(judged(tokens).back().verdict, TokenVerdict::kHardFlip);
}

// A float32 head over bfloat16 layers: the ulp says nothing, and where most steps agree to the bit
// neither does the median.
TEST(JudgeNoise, IsAtLeastWhatRoundingTheHiddenStateMakes) {
  const double floor = kSqrt2 * std::ldexp(1.0, -8) / std::sqrt(7.0);
  EXPECT_NEAR(floor, 0.0021, 5e-5);
  const auto verdict_of = [&](double gap, DType layers, double spread) {
    std::vector<TokenComparison> tokens(9, match(0.0));
    tokens.push_back(mismatch(gap, 0.003));
    for (TokenComparison& token : tokens) {
      token.ulp = std::ldexp(1.0, -23);
      token.noise.deviation = spread;
    }
    TokenOptions options{.layer_dtype = layers, .measures_noise = true};
    const std::vector<std::vector<FlipCandidate>> candidates(tokens.size());
    judge_noise(tokens, candidates, options);
    return tokens.back().verdict;
  };
  EXPECT_EQ(verdict_of(0.0065, DType::kBFloat16, 1.0), TokenVerdict::kNoise);
  EXPECT_EQ(verdict_of(5.6 * floor, DType::kBFloat16, 1.0), TokenVerdict::kNoise);
  EXPECT_EQ(verdict_of(5.7 * floor, DType::kBFloat16, 1.0), TokenVerdict::kHardFlip);
  EXPECT_EQ(verdict_of(0.0065, DType::kBFloat16, 0.1), TokenVerdict::kHardFlip);
  EXPECT_EQ(verdict_of(0.0065, DType::kFloat32, 1.0), TokenVerdict::kHardFlip);
  // What is not known adds nothing.
  EXPECT_EQ(verdict_of(0.0065, DType::kBFloat16, kNan), TokenVerdict::kHardFlip);
}

// Two kernels that agree to the bit in most steps: those where they do not show what is usual,
// where they are enough.
TEST(JudgeNoise, MedianIsThatOfTheStepsThatDiffer) {
  std::vector<TokenComparison> tokens(100, match(0.0));
  tokens.insert(tokens.end(), 6, match(0.1));
  tokens.push_back(mismatch(0.5, 0.1));
  EXPECT_EQ(judged(tokens).back().verdict, TokenVerdict::kHardFlip);
  tokens.insert(tokens.begin(), match(0.1));
  EXPECT_EQ(judged(tokens).back().verdict, TokenVerdict::kNoise);
  EXPECT_DOUBLE_EQ(judged(tokens).back().noise_bound, 4.0 * kSqrt2 * 0.1);
  // One that is wrong among them is still not excused.
  tokens.back() = mismatch(2.0, 1.0);
  EXPECT_EQ(judged(tokens).back().verdict, TokenVerdict::kHardFlip);
  EXPECT_DOUBLE_EQ(judged(tokens).back().noise_bound, 4.0 * kSqrt2 * 0.2);
}

// The table of docs/metrics.md: a recorded logit of 17 in bfloat16.
TEST(JudgeNoise, GivesTheDocumentedClasses) {
  const auto classes = [](double gap) {
    std::vector<TokenVerdict> verdicts;
    for (const double noise : {static_cast<double>(kNan), 0.0, 0.1}) {
      TokenComparison token = mismatch(gap, noise);
      token.ulp = 0.125;
      verdicts.push_back(judged({token}).front().verdict);
    }
    return verdicts;
  };
  using Verdicts = std::vector<TokenVerdict>;
  constexpr TokenVerdict kTie = TokenVerdict::kTie;
  constexpr TokenVerdict kNoise = TokenVerdict::kNoise;
  constexpr TokenVerdict kHardFlip = TokenVerdict::kHardFlip;
  EXPECT_EQ(classes(0.0), (Verdicts{kTie, kTie, kTie}));
  EXPECT_EQ(classes(0.125), (Verdicts{kTie, kTie, kTie}));
  EXPECT_EQ(classes(0.25), (Verdicts{TokenVerdict::kNearTie, kNoise, kNoise}));
  EXPECT_EQ(classes(0.375), (Verdicts{kHardFlip, kHardFlip, kNoise}));
  EXPECT_EQ(classes(5.0), (Verdicts{kHardFlip, kHardFlip, kHardFlip}));
  std::vector<TokenComparison> tokens(9, match(0.1));
  tokens.push_back(mismatch(2.0, 1.0));
  EXPECT_EQ(judged(tokens).back().verdict, kHardFlip);
  EXPECT_NEAR(judged(tokens).back().noise_bound, 1.13, 0.005);
}

TEST(JudgeNoise, TakesTheNumberOfDeviationsFromTheGate) {
  EXPECT_EQ(verdict(0.5, 0.05), TokenVerdict::kHardFlip);
  EXPECT_EQ(verdict(0.5, 0.05, {.noise_z = 8.0}), TokenVerdict::kNoise);
  EXPECT_EQ(verdict(0.27, 0.05), TokenVerdict::kNoise);
  EXPECT_EQ(verdict(0.27, 0.05, {.noise_z = 2.0}), TokenVerdict::kHardFlip);
}

TEST(JudgeNoise, WithoutNoiseTheUlpDecides) {
  const TokenComparison near_tie = judged({mismatch(2.0 * kUlp, kNan)}).front();
  EXPECT_EQ(near_tie.verdict, TokenVerdict::kNearTie);
  EXPECT_THAT(near_tie.noise_bound, IsNan());
  EXPECT_EQ(verdict(3.0 * kUlp, kNan), TokenVerdict::kHardFlip);
  EXPECT_EQ(verdict(3.0 * kUlp, kNan, {.near_tie_ulps = 3.0}), TokenVerdict::kNearTie);
  EXPECT_EQ(verdict(3.0 * kUlp, kNan, {.noise_z = 99.0}), TokenVerdict::kHardFlip);
  EXPECT_EQ(verdict(kUlp, kNan), TokenVerdict::kTie);
}

// Of one token without noise among others with it.
TEST(JudgeNoise, TokenWithoutNoiseIsJudgedByUlpAmongOthers) {
  const std::vector<TokenComparison> tokens =
      judged({match(0.05), mismatch(2.0 * kUlp, kNan), mismatch(0.28, 0.05)});
  EXPECT_EQ(tokens[0].verdict, TokenVerdict::kMatch);
  EXPECT_EQ(tokens[1].verdict, TokenVerdict::kNearTie);
  EXPECT_EQ(tokens[2].verdict, TokenVerdict::kNoise);
}

// One step is wrong, which shows as noise and as a flip over it.
TEST(JudgeNoise, OneStepsNoiseDoesNotExcuseItsOwnFlip) {
  std::vector<TokenComparison> tokens(9, match(0.05));
  tokens.push_back(mismatch(1.0, 0.5));
  EXPECT_EQ(judged({tokens.back()}).front().verdict, TokenVerdict::kNoise) << "alone it would";
  const std::vector<TokenComparison> together = judged(tokens);
  EXPECT_EQ(together.back().verdict, TokenVerdict::kHardFlip);
  EXPECT_DOUBLE_EQ(together.back().noise_bound, 4.0 * kSqrt2 * 0.1) << "twice the median";
  EXPECT_DOUBLE_EQ(together.front().noise_bound, 4.0 * kSqrt2 * 0.05);
}

// Of an even number the lower one; what has no noise does not count.
TEST(JudgeNoise, MedianIsThatOfTheTokensWithNoise) {
  std::vector<TokenComparison> tokens{match(0.1), match(0.2), match(0.3), match(9.0)};
  tokens.insert(tokens.end(), 6, match(kNan));
  EXPECT_DOUBLE_EQ(judged(tokens)[3].noise_bound, 4.0 * kSqrt2 * 0.4);
}

TEST(JudgeNoise, WhatCannotBeShownToBeNoiseIsAHardFlip) {
  constexpr double kMuch = 10.0;
  TokenComparison token = mismatch(0.5, kMuch);
  EXPECT_EQ(judged({token}).front().verdict, TokenVerdict::kNoise);
  token.nonfinite = true;
  EXPECT_EQ(judged({token}).front().verdict, TokenVerdict::kHardFlip);
  token = mismatch(kNan, kMuch);
  EXPECT_EQ(judged({token}).front().verdict, TokenVerdict::kHardFlip);
  token = mismatch(0.5, kMuch);
  token.predicted = -1;
  EXPECT_EQ(judged({token}).front().verdict, TokenVerdict::kHardFlip);
  // Only a bound: the live gap shows how large it is.
  token = mismatch(0.5, kMuch);
  token.gap_is_bound = true;
  token.live_gap = kNan;
  EXPECT_EQ(judged({token}).front().verdict, TokenVerdict::kHardFlip);
  token.live_gap = 0.75;
  EXPECT_EQ(judged({token}).front().verdict, TokenVerdict::kNoise);
  EXPECT_EQ(judged({token}, {.noise_z = 0.05}).front().verdict, TokenVerdict::kHardFlip);
}

// 0.25 of a difference of two logits with a noise of 0.05 each.
TEST(JudgeNoise, GapInUnitsOfNoise) {
  const TokenComparison token = judged({mismatch(0.25, 0.05)}).front();
  EXPECT_DOUBLE_EQ(token.gap_in_noise(4.0), 0.25 / (kSqrt2 * 0.05));
  EXPECT_EQ(judged({match(0.05)}).front().gap_in_noise(4.0), 0.0);
  EXPECT_THAT(judged({mismatch(0.25, kNan)}).front().gap_in_noise(4.0), IsNan());
}

// ---- Probability of hard flips ---------------------------------------------------------

// Eight candidates: gaps 0, 0.3, 0.5 and five times 9, deltas 1, and 0 seven times. The second
// overtakes where it has the 1: 1/8; so does the third, 1/8.
std::vector<FlipCandidate> eight_candidates() {
  std::vector<FlipCandidate> candidates(8);
  for (FlipCandidate& each : candidates) each.gap = 9.0F;
  candidates[0].gap = 0.0F;
  candidates[1].gap = 0.3F;
  candidates[2].gap = 0.5F;
  candidates[7].delta = 1.0F;
  return candidates;
}

double hard_flip_probability(double noise, FlipBounds bounds = {}) {
  TokenComparison token = match(noise);
  token.flip_probability = flip_probability(eight_candidates());
  EXPECT_DOUBLE_EQ(token.flip_probability, 0.25);
  std::vector<TokenComparison> tokens{token};
  judge_noise(tokens, StretchCandidates{eight_candidates()}, {.bounds = bounds});
  return tokens.front().hard_flip_probability;
}

TEST(JudgeNoise, HardFlipsAreThoseOverBothBounds) {
  EXPECT_DOUBLE_EQ(hard_flip_probability(0.01), 0.25) << "2.31 ulp are 0.14, below both gaps";
  EXPECT_DOUBLE_EQ(hard_flip_probability(0.01, {.noise_z = 9.0}), 0.125) << "5.2 ulp are 0.32";
  EXPECT_DOUBLE_EQ(hard_flip_probability(0.06), 0.125) << "0.34 explains the gap of 0.3";
  EXPECT_DOUBLE_EQ(hard_flip_probability(0.1), 0.0) << "0.57 explains that of 0.5, too";
  EXPECT_DOUBLE_EQ(hard_flip_probability(0.06, {.noise_z = 1.0}), 0.25);
  EXPECT_THAT(hard_flip_probability(kNan), IsNan());
}

// What compare_token() leaves where no flip is possible.
TEST(JudgeNoise, WithoutCandidatesNoiseMakesNoHardFlip) {
  std::vector<TokenComparison> tokens{match(0.05), match(0.05)};
  tokens[0].flip_probability = 0.0;
  judge_noise(tokens, StretchCandidates(2), {});
  EXPECT_EQ(tokens[0].hard_flip_probability, 0.0);
  EXPECT_THAT(tokens[1].hard_flip_probability, IsNan()) << "its deltas are not known";
}

// ---- From the statistics -----------------------------------------------------------------

// Ids 0 to 7 with logits 17, 16.5, 16, ..., a sample of eight, and the live side's at both.
struct BothSides {
  format::StepStats reference;
  format::StepStats live;
};

BothSides step_with_deltas(const std::vector<float>& deltas) {
  std::vector<std::int32_t> ids;
  std::vector<float> logits;
  for (std::int32_t id = 0; id < 8; ++id) {
    ids.push_back(id);
    logits.push_back(17.0F - 0.5F * static_cast<float>(id));
  }
  BothSides step{stats(ids, logits), stats(ids, logits)};
  step.reference.sampled_logits = {1.0F, 3.0F, 1.0F, 3.0F, 1.0F, 3.0F, 1.0F, 3.0F};
  step.live.sampled_logits = step.reference.sampled_logits;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    step.live.at_reference_top.push_back(logits[i] + deltas[i]);
  }
  return step;
}

TEST(CompareToken, MeasuresNoiseAndFlipsWhereBothSidesShowThem) {
  const BothSides step =
      step_with_deltas({0.25F, -0.25F, 0.25F, -0.25F, 0.25F, -0.25F, 0.25F, -0.25F});
  TokenOptions options{.reference_logits_dtype = DType::kBFloat16,
                       .live_logits_dtype = DType::kBFloat16,
                       .vocab_size = 1000,
                       .measures_noise = true};
  StretchCandidates candidates;
  const TokenComparison token = compare_token(0, step.reference, step.live, options, candidates);
  EXPECT_DOUBLE_EQ(token.noise.top, 0.25);
  EXPECT_DOUBLE_EQ(token.noise.sample, 0.0);
  EXPECT_DOUBLE_EQ(token.noise.relative(), 0.25);
  EXPECT_FALSE(std::isnan(token.kl_estimate.value));
  // Id 1 is 0.5 behind: it can only draw level, and the lowest id is kept.
  EXPECT_EQ(token.flip_probability, 0.0);
  ASSERT_EQ(candidates.size(), 1U);
  EXPECT_TRUE(candidates[0].empty()) << "nothing to keep";

  options.measures_noise = false;
  const TokenComparison by_ulp = compare_token(1, step.reference, step.live, options, candidates);
  EXPECT_THAT(by_ulp.noise.top, IsNan());
  EXPECT_THAT(by_ulp.flip_probability, IsNan());
  EXPECT_THAT(by_ulp.kl_estimate.value, IsNan());
  EXPECT_EQ(candidates.size(), 2U) << "an entry a token";
}

TEST(CompareToken, KeepsTheCandidatesOfAPossibleFlip) {
  const BothSides step = step_with_deltas({0.0F, 0.75F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F});
  StretchCandidates candidates;
  const TokenComparison token = compare_token(
      0, step.reference, step.live, {.vocab_size = 1000, .measures_noise = true}, candidates);
  EXPECT_DOUBLE_EQ(token.flip_probability, 0.125) << "id 1 gets 0.75 in one of eight ways";
  EXPECT_EQ(candidates.front().size(), 8U);
}

TEST(CompareToken, NonFiniteStatisticsShowNoNoise) {
  BothSides step = step_with_deltas({0.25F, -0.25F, 0.25F, -0.25F, 0.25F, -0.25F, 0.25F, -0.25F});
  step.live.logsumexp = kInf;
  StretchCandidates candidates;
  const TokenComparison token = compare_token(
      0, step.reference, step.live, {.vocab_size = 1000, .measures_noise = true}, candidates);
  EXPECT_THAT(token.noise.top, IsNan());
  EXPECT_THAT(token.flip_probability, IsNan());
  EXPECT_TRUE(candidates.front().empty());
}

}  // namespace
}  // namespace kvtool::analysis
