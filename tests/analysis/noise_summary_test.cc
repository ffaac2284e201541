// What runs make of the measured noise, with values computed by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kvtool/analysis/summary.h"

namespace kvtool::analysis {
namespace {

using format::ReplayMode;
using testing::DoubleEq;
using testing::Optional;

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

struct JudgedStep {
  TokenVerdict verdict = TokenVerdict::kMatch;
  double flip_probability = kUnknown;
  double hard_flip_probability = kUnknown;
  LogitNoise noise = {};
  KlEstimate kl = {};
};

// A token 0 of which nothing is known, and the steps.
RowComparison row(const std::vector<JudgedStep>& steps) {
  RowComparison result;
  result.tokens.emplace_back();
  for (const JudgedStep& step : steps) {
    TokenComparison& token = result.tokens.emplace_back();
    token.index = result.tokens.size() - 1;
    token.verdict = step.verdict;
    token.flip_probability = step.flip_probability;
    token.hard_flip_probability = step.hard_flip_probability;
    token.noise = step.noise;
    token.kl_estimate = step.kl;
  }
  return result;
}

RunSummary summary_of(const std::vector<RowComparison>& rows) {
  RunSummaryBuilder builder;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    builder.add({static_cast<std::uint32_t>(rows.size()), static_cast<std::uint32_t>(i)}, 10,
                ReplayMode::kInject, rows[i], true);
  }
  return builder.build();
}

// docs/metrics.md. Flips: 1/2 + 1/4 + 0 of three tokens, variance 1/4 + 3/16, one observed:
// 1 - 1/2 * 3/4. Hard flips: 1/8 + 0 + 1/4, one observed: 1 - 7/8 * 3/4.
TEST(NoiseSummary, ExpectsFlipsOfAllInputsTogether) {
  const RunSummary run =
      summary_of({row({{.flip_probability = 0.5, .hard_flip_probability = 0.125},
                       {.verdict = TokenVerdict::kNoise,
                        .flip_probability = 0.25,
                        .hard_flip_probability = 0.0}}),
                  row({{.flip_probability = 0.0},
                       {.verdict = TokenVerdict::kHardFlip, .hard_flip_probability = 0.25}})});
  const StretchSummary& steps = run.modes.at(0).steps;
  EXPECT_EQ(steps.flips.measured, 3U);
  EXPECT_EQ(steps.flips.observed, 1U) << "the hard flip is of a token without a probability";
  EXPECT_THAT(steps.flips.expected, Optional(DoubleEq(0.75)));
  EXPECT_THAT(steps.flips.deviation, Optional(DoubleEq(std::sqrt(0.4375))));
  EXPECT_THAT(steps.flips.tail, Optional(DoubleEq(0.625)));
  EXPECT_EQ(steps.hard_flips.measured, 3U);
  EXPECT_EQ(steps.hard_flips.observed, 1U);
  EXPECT_THAT(steps.hard_flips.expected, Optional(DoubleEq(0.375)));
  EXPECT_THAT(steps.hard_flips.tail, Optional(DoubleEq(0.34375)));
  EXPECT_EQ(run.prefill.flips.measured, 0U);
  EXPECT_FALSE(run.prefill.flips.tail.has_value());

  const Figures figures = figures_of(run);
  EXPECT_DOUBLE_EQ(figures.at("inject.tokens.flips_expected"), 0.75);
  EXPECT_DOUBLE_EQ(figures.at("inject.tokens.flips_deviation"), std::sqrt(0.4375));
  EXPECT_DOUBLE_EQ(figures.at("inject.tokens.flips_p"), 0.625);
  EXPECT_DOUBLE_EQ(figures.at("inject.tokens.hard_flips_expected"), 0.375);
  EXPECT_DOUBLE_EQ(figures.at("inject.tokens.hard_flips_deviation"), std::sqrt(0.296875));
  EXPECT_DOUBLE_EQ(figures.at("inject.tokens.hard_flips_p"), 0.34375);
  EXPECT_EQ(figures.at("inject.tokens.noise_flips"), 1.0);
  EXPECT_FALSE(figures.contains("prefill.tokens.flips_p"));
}

// Ties and near-ties are flips, too.
TEST(NoiseSummary, ObservesMismatchesOfEveryClass) {
  std::vector<JudgedStep> steps(2, {.flip_probability = 0.5, .hard_flip_probability = 0.0});
  for (const TokenVerdict verdict : {TokenVerdict::kTie, TokenVerdict::kNoise,
                                     TokenVerdict::kNearTie, TokenVerdict::kHardFlip}) {
    steps.push_back({.verdict = verdict, .flip_probability = 0.5, .hard_flip_probability = 0.0});
  }
  const StretchSummary stretch = summary_of({row(steps)}).modes.at(0).steps;
  EXPECT_EQ(stretch.flips.observed, 4U);
  // P(X >= 4) of six fair trials: (15 + 6 + 1) / 64.
  EXPECT_THAT(stretch.flips.tail, Optional(DoubleEq(22.0 / 64.0)));
  EXPECT_EQ(stretch.hard_flips.observed, 1U);
  EXPECT_THAT(stretch.hard_flips.tail, Optional(0.0));
}

// Three of six: a match, a noise flip, a tie, a near-tie and two hard flips.
TEST(NoiseSummary, NoiseFlipsAreExplained) {
  const TokenSummary tokens = summary_of({row({{},
                                               {.verdict = TokenVerdict::kNoise},
                                               {.verdict = TokenVerdict::kTie},
                                               {.verdict = TokenVerdict::kNearTie},
                                               {.verdict = TokenVerdict::kHardFlip},
                                               {.verdict = TokenVerdict::kHardFlip}})})
                                  .modes.at(0)
                                  .steps.tokens;
  EXPECT_EQ(tokens.noise_flips, 1U);
  EXPECT_THAT(tokens.tie_rate(), Optional(DoubleEq(0.5)));
  // P(X >= 4 | 6, p) = 0.05.
  EXPECT_NEAR(tokens.explained_rate_lower95().value(), 0.2713387, 1e-6);
}

// sqrt((0.09 + 0.16) / 2) and, relative to 1 and 2, sqrt((0.09 + 0.04) / 2).
TEST(NoiseSummary, PoolsNoiseAsRootMeanSquare) {
  const RunSummary run =
      summary_of({row({{.noise = {.top = 0.3, .sample = 0.1, .deviation = 1.0}}, {}}),
                  row({{.noise = {.top = 0.4, .sample = 0.1, .deviation = 2.0}},
                       {.noise = {.top = 9.0, .sample = 0.1, .deviation = kUnknown}}})});
  const LogitSummary& logits = run.modes.at(0).steps.logits;
  EXPECT_EQ(logits.noise_measured, 2U);
  EXPECT_THAT(logits.noise, Optional(DoubleEq(std::sqrt(0.125))));
  EXPECT_THAT(logits.relative_noise, Optional(DoubleEq(std::sqrt(0.065))));
  const Figures figures = figures_of(run);
  EXPECT_DOUBLE_EQ(figures.at("inject.logits.noise"), std::sqrt(0.125));
  EXPECT_DOUBLE_EQ(figures.at("inject.logits.relative_noise"), std::sqrt(0.065));
}

// Logits that are all the same have no spread: noise beside them is infinitely much.
TEST(NoiseSummary, NoiseOfLogitsWithoutSpreadIsInfinite) {
  const Figures figures =
      figures_of(summary_of({row({{.noise = {.top = 0.5, .sample = 0.5, .deviation = 0.0}}})}));
  EXPECT_EQ(figures.at("inject.logits.relative_noise"), std::numeric_limits<double>::infinity());
}

// Errors 0.03 and 0.04 of two values: 0.05 / 2.
TEST(NoiseSummary, SummarizesEstimatesOfKl) {
  const RunSummary run =
      summary_of({row({{.kl = {.value = 0.5, .standard_error = 0.03, .reliable = true}}, {}}),
                  row({{}, {.kl = {.value = 0.125, .standard_error = 0.04, .reliable = false}}})});
  const LogitSummary& logits = run.modes.at(0).steps.logits;
  EXPECT_EQ(logits.kl_estimate.measured, 2U);
  EXPECT_EQ(logits.kl_unreliable, 1U);
  EXPECT_THAT(logits.kl_standard_error, Optional(DoubleEq(0.025)));
  ASSERT_TRUE(logits.kl_estimate.worst.has_value());
  EXPECT_EQ(logits.kl_estimate.worst->input.input_index, 0U);
  EXPECT_EQ(logits.kl_estimate.worst->token_index, 1U);
  EXPECT_EQ(logits.kl().max, logits.kl_estimate.max);
  const Figures figures = figures_of(run);
  EXPECT_DOUBLE_EQ(figures.at("inject.kl_estimate.mean"), 0.3125);
  EXPECT_DOUBLE_EQ(figures.at("inject.kl_estimate.median"), 0.125);
  EXPECT_DOUBLE_EQ(figures.at("inject.kl_estimate.p99"), 0.5);
  EXPECT_DOUBLE_EQ(figures.at("inject.kl_estimate.max"), 0.5);
  EXPECT_DOUBLE_EQ(figures.at("inject.kl_estimate.standard_error"), 0.025);
  EXPECT_DOUBLE_EQ(figures.at("inject.kl_estimate.unreliable_rate"), 0.5);
}

TEST(NoiseSummary, WithoutASampleThereIsNoFigureOfIt) {
  const RunSummary run = summary_of({row({{}, {}})});
  EXPECT_EQ(&run.modes.at(0).steps.logits.kl(), &run.modes.at(0).steps.logits.kl_bound);
  const Figures figures = figures_of(run);
  EXPECT_EQ(figures.at("inject.tokens.noise_flips"), 0.0);
  EXPECT_TRUE(figures.contains("inject.kl.p99"));
  for (const char* name :
       {"inject.logits.noise", "inject.logits.relative_noise", "inject.tokens.flips_p",
        "inject.tokens.flips_expected", "inject.tokens.hard_flips_p", "inject.kl_estimate.p99",
        "inject.kl_estimate.standard_error", "inject.kl_estimate.unreliable_rate"}) {
    EXPECT_FALSE(figures.contains(name)) << name;
  }
}

RowComparison with_kl(double bound, double estimate) {
  RowComparison result =
      row({{.kl = {.value = estimate, .standard_error = 0.0, .reliable = true}}});
  result.tokens[1].kl = bound;
  return result;
}

std::optional<double> amplification(const RowComparison& inject, const RowComparison& forced) {
  RunSummaryBuilder builder;
  builder.add({1, 0}, 10, ReplayMode::kInject, inject, true);
  builder.add({1, 0}, 10, ReplayMode::kForced, forced, false);
  return builder.build().amplification;
}

TEST(NoiseSummary, AmplificationIsOfEstimatesWhereBothModesHaveThem) {
  EXPECT_THAT(amplification(with_kl(0.25, 0.5), with_kl(0.5, 4.0)), Optional(DoubleEq(8.0)));
  EXPECT_THAT(amplification(with_kl(0.25, 0.5), with_kl(0.5, kUnknown)), Optional(DoubleEq(2.0)));
  EXPECT_THAT(amplification(with_kl(0.25, kUnknown), with_kl(0.5, 4.0)), Optional(DoubleEq(2.0)));
  EXPECT_FALSE(amplification(with_kl(0.25, 0.0), with_kl(0.5, 4.0)).has_value());
}

}  // namespace
}  // namespace kvtool::analysis
