// How mismatches are put into words.
#include "report/mismatches.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "sample_results.h"

namespace kvtool::report {
namespace {

using analysis::FlipBounds;
using analysis::FlipSummary;
using analysis::TokenComparison;
using analysis::TokenVerdict;

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

TokenComparison mismatch(TokenVerdict verdict, double gap) {
  TokenComparison token;
  token.recorded = 1;
  token.predicted = 2;
  token.verdict = verdict;
  token.gap = token.margin = gap;
  token.ulp = 0.015625;
  return token;
}

// noise: of one logit; z = 4.
TokenComparison noisy(TokenVerdict verdict, double gap, double noise) {
  TokenComparison token = mismatch(verdict, gap);
  token.noise.top = noise;
  token.noise_bound = 4.0 * std::numbers::sqrt2 * noise;
  return token;
}

std::string text_of(const TokenComparison& token, const FlipBounds& bounds = {}) {
  return gap_text(token, bounds);
}

TEST(Mismatches, AGapNamesTheRuleThatDecided) {
  EXPECT_EQ(text_of(noisy(TokenVerdict::kTie, 0.015625, 0.02)),
            "0.01562 = 1 ulp = 0.55 noise (a tie: up to 1 ulp)");
  // 0.0625 / (sqrt(2) * 0.02) = 2.21.
  EXPECT_EQ(text_of(noisy(TokenVerdict::kNoise, 0.0625, 0.02)),
            "0.0625 = 4 ulp = 2.2 noise (noise explains up to 4)");
  EXPECT_EQ(text_of(noisy(TokenVerdict::kHardFlip, 0.125, 0.02)),
            "0.125 = 8 ulp = 4.4 noise (a hard flip: over 1 ulp and over 4 noise)");
  EXPECT_EQ(text_of(mismatch(TokenVerdict::kTie, 0.0078125)),
            "0.007812 = 0.5 ulp (a tie: up to 1 ulp)");
  EXPECT_EQ(text_of(mismatch(TokenVerdict::kNearTie, 0.03125)),
            "0.03125 = 2 ulp (a near-tie: up to 2 ulp)");
  EXPECT_EQ(text_of(mismatch(TokenVerdict::kHardFlip, 0.125)),
            "0.125 = 8 ulp (a hard flip: over 2 ulp)");
}

TEST(Mismatches, TheGatesBoundsAreNamed) {
  const FlipBounds bounds = {.near_tie_ulps = 3.0, .noise_z = 5.5};
  EXPECT_EQ(text_of(mismatch(TokenVerdict::kNearTie, 0.03125), bounds),
            "0.03125 = 2 ulp (a near-tie: up to 3 ulp)");
  TokenComparison token = mismatch(TokenVerdict::kNoise, 0.125);
  token.noise_bound = 5.5 * 0.025;
  EXPECT_EQ(text_of(token, bounds), "0.125 = 8 ulp = 5 noise (noise explains up to 5.5)");
  // A tie reaches 1 ulp whatever a near-tie does.
  EXPECT_EQ(text_of(mismatch(TokenVerdict::kHardFlip, 0.03125), {.near_tie_ulps = 0.5}),
            "0.03125 = 2 ulp (a hard flip: over 1 ulp)");
}

TEST(Mismatches, AGapIsNeverRoundedOntoItsBound) {
  TokenComparison token = mismatch(TokenVerdict::kHardFlip, 4.004);
  token.ulp = 1.0;
  token.noise_bound = 4.0;
  EXPECT_EQ(text_of(token),
            "4.004 = 4 ulp = 4.004 noise (a hard flip: over 1 ulp and over 4 "
            "noise)");
  token.gap = 1234.5;
  EXPECT_EQ(text_of(token),
            "1234 = 1.23e+03 ulp = 1234 noise (a hard flip: over 1 ulp and over 4 "
            "noise)");
}

TEST(Mismatches, AGapThatIsABoundIsJudgedByTheLiveLogits) {
  TokenComparison token = noisy(TokenVerdict::kNoise, 0.0625, 0.02);
  token.gap_is_bound = true;
  token.live_gap = 0.078125;
  EXPECT_EQ(text_of(token),
            "at least 0.0625, 0.07812 in the live logits = 5 ulp = 2.8 noise "
            "(noise explains up to 4)");
  token.verdict = TokenVerdict::kHardFlip;
  token.live_gap = kUnknown;
  EXPECT_EQ(text_of(token),
            "at least 0.0625 = 4 ulp (a hard flip: the recorded token is not in the live top-k)");
}

TEST(Mismatches, WhatIsNotFiniteIsSaid) {
  TokenComparison token = noisy(TokenVerdict::kHardFlip, 0.0, 0.02);
  token.nonfinite = true;
  EXPECT_EQ(text_of(token), "0 = 0 ulp = 0 noise (a hard flip: NaN or Inf)");
  token.gap = token.margin = kUnknown;
  EXPECT_EQ(describe_gap(token, {}),
            "gap unknown, margin unknown (the recording has no top-2 logits)");
}

TEST(Mismatches, TheRuleOfAFlipIsTheOneItIsHeldAgainst) {
  EXPECT_EQ(flip_rule(mismatch(TokenVerdict::kMatch, 0.0)), FlipRule::kNone);
  EXPECT_EQ(flip_rule(noisy(TokenVerdict::kTie, 0.015625, 0.02)), FlipRule::kUlp);
  EXPECT_EQ(flip_rule(noisy(TokenVerdict::kNoise, 0.0625, 0.02)), FlipRule::kNoise);
  EXPECT_EQ(flip_rule(mismatch(TokenVerdict::kNearTie, 0.03125)), FlipRule::kUlp);
  EXPECT_EQ(flip_rule(mismatch(TokenVerdict::kHardFlip, 0.125)), FlipRule::kUlp);
  EXPECT_EQ(flip_rule(noisy(TokenVerdict::kHardFlip, 0.125, 0.02)), FlipRule::kNoise);
  EXPECT_EQ(flip_rule(mismatch(TokenVerdict::kHardFlip, kUnknown)), FlipRule::kNone);
  TokenComparison nonfinite = mismatch(TokenVerdict::kHardFlip, 0.125);
  nonfinite.nonfinite = true;
  EXPECT_EQ(flip_rule(nonfinite), FlipRule::kNone);
}

TEST(Mismatches, CountsNameEveryClass) {
  EXPECT_EQ(mismatch_counts({}), "");
  EXPECT_EQ(mismatch_counts({.ties = 1, .noise_flips = 2, .near_ties = 1, .hard_flips = 2}),
            "1 tie, 2 noise flips, 1 near-tie, 2 hard flips");
}

TEST(Mismatches, StepsLeaveThePrefillsTokenOut) {
  run::ModeReplay mode = noise_input().replay->modes.front();
  mode.comparison.tokens[0].verdict = TokenVerdict::kNoise;
  EXPECT_EQ(count_tokens(mode.comparison).noise_flips, 2U);
  EXPECT_EQ(count_steps(mode.comparison).noise_flips, 1U);
  EXPECT_EQ(count_steps(mode.comparison).compared, 8U);
}

FlipSummary flips(std::uint64_t observed, double expected, double deviation, double tail) {
  return {.measured = 400,
          .observed = observed,
          .expected = expected,
          .deviation = deviation,
          .tail = tail};
}

TEST(Mismatches, ExpectedFlipsHaveTheDigitsOfTheirDeviation) {
  EXPECT_EQ(flips_text(flips(37, 38.23, 5.31, 0.617)), "37 observed, 38.2 ± 5.3 expected, p 0.62");
  EXPECT_EQ(expected_text(flips(0, 1234.5, 33.4, 1.0)), "1234 ± 33");
  EXPECT_EQ(expected_text(flips(0, 0.0123, 0.1102, 1.0)), "0.01 ± 0.11");
  EXPECT_EQ(expected_text(flips(0, 3e-7, 5.5e-4, 1.0)), "< 0.01");
  EXPECT_EQ(expected_text(flips(0, 0.0, 0.0, 1.0)), "0");
  EXPECT_EQ(expected_text(flips(2, 2.0, 0.0, 1.0)), "2.00 ± 0.00");
  EXPECT_EQ(expected_text({}), "-");
  EXPECT_EQ(flips_text({}), "");
}

TEST(Mismatches, OnlyCertaintyIsAProbabilityOfOne) {
  EXPECT_EQ(probability_text(1.0), "1");
  EXPECT_EQ(probability_text(0.9999), "> 0.99");
  EXPECT_EQ(probability_text(0.0123), "0.012");
  EXPECT_EQ(probability_text(4.1e-9), "4.1e-09");
}

TEST(Mismatches, HardFlipsAreWorthRowsWhereThereMayBeSome) {
  EXPECT_TRUE(has_hard_flips(flips(1, 0.0, 0.0, 0.0)));
  EXPECT_TRUE(has_hard_flips(flips(0, 0.4, 0.6, 1.0)));
  EXPECT_FALSE(has_hard_flips(flips(0, 1e-6, 1e-3, 1.0)));
  EXPECT_FALSE(has_hard_flips({}));
}

run::Verdict verdict_by(const std::vector<run::InputResult>& inputs) {
  return verdict_of(inputs, sample_gate(), true);
}

TEST(Mismatches, TheNoteOnPNamesTheModesWhereItIsNotGated) {
  run::InputResult input = noise_input();
  input.replay->modes.resize(1);
  const std::string p = "p: the probability that noise alone makes as many flips, or more.";
  EXPECT_EQ(flips_note(verdict_by({input})), p);
  EXPECT_EQ(flips_note(verdict_by({noise_input()})),
            p + " In forced one flip leads to others: p is shown there and not gated.");
  EXPECT_EQ(flips_note(verdict_by({replayed_input()})), "");
}

TEST(Mismatches, KlIsTheEstimateWhereThereIsOne) {
  const analysis::RowComparison with = noise_input().replay->modes.front().comparison;
  const analysis::RowComparison without = replayed_input().replay->modes.front().comparison;
  EXPECT_TRUE(estimates_kl(with));
  EXPECT_FALSE(estimates_kl(without));
  EXPECT_EQ(step_kl_p99(with, true), 0.5);
  EXPECT_EQ(step_kl_p99(with, false), 0.25);
  EXPECT_EQ(step_kl_p99(without, true), std::nullopt);
  EXPECT_EQ(step_kl_p99(without, false), 0.25);
  EXPECT_EQ(kl_name(true), "KL");
  EXPECT_EQ(kl_name(false), "KL (lower bound)");
}

TEST(Mismatches, AClassThatCannotBeIsNamed) {
  const run::Verdict by_noise = verdict_by({noise_input()});
  const run::Verdict by_ulp = verdict_by({replayed_input()});
  EXPECT_TRUE(is_foreign_class("tokens.near_ties", by_noise));
  EXPECT_FALSE(is_foreign_class("tokens.noise_flips", by_noise));
  EXPECT_TRUE(is_foreign_class("tokens.noise_flips", by_ulp));
  EXPECT_FALSE(is_foreign_class("tokens.near_ties", by_ulp));
  EXPECT_FALSE(is_foreign_class("tokens.hard_flips", by_ulp));
}

}  // namespace
}  // namespace kvtool::report
