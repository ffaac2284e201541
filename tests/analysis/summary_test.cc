#include "kvtool/analysis/summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvtool::analysis {
namespace {

using format::ReplayMode;
using testing::DoubleEq;
using testing::Optional;

constexpr std::uint64_t kPromptLength = 10;

TokenComparison token(std::uint64_t index, TokenVerdict verdict, double kl = 0.0) {
  TokenComparison result;
  result.index = index;
  result.verdict = verdict;
  result.kl = kl;
  result.top1_agrees = verdict == TokenVerdict::kMatch;
  result.top5_overlap = 0.8;
  result.top100_overlap = 0.9;
  result.in_top5 = verdict != TokenVerdict::kHardFlip;
  return result;
}

// Token 0 and one token per further verdict.
RowComparison row(std::vector<TokenVerdict> verdicts) {
  RowComparison result;
  for (std::size_t i = 0; i < verdicts.size(); ++i) result.tokens.push_back(token(i, verdicts[i]));
  return result;
}

constexpr TokenVerdict kMatch = TokenVerdict::kMatch;
constexpr TokenVerdict kTie = TokenVerdict::kTie;
constexpr TokenVerdict kNearTie = TokenVerdict::kNearTie;
constexpr TokenVerdict kHardFlip = TokenVerdict::kHardFlip;

// One layer with one head; K rows of 4 elements of 1 with this error each, V equal.
KvProfile profile(std::vector<double> row_errors) {
  KvProfile result({1}, 16);
  for (std::size_t position = 0; position < row_errors.size(); ++position) {
    KvError error;
    error.elements = 4;
    error.sum_squared_reference = 4.0;
    error.max_reference = 1.0;
    error.sum_squared_floor = 4.0 * std::pow(storage_rounding_floor(DType::kBFloat16), 2.0);
    error.ulps.add(0, 4);
    result.add(KvKind::kValue, 0, 0, position, error);
    result.set_row_error(KvKind::kValue, 0, position, 0.0);
    error.differing = row_errors[position] > 0.0 ? 4 : 0;
    error.sum_squared_error = 4.0 * row_errors[position] * row_errors[position];
    error.max_abs = row_errors[position];
    result.add(KvKind::kKey, 0, 0, position, error);
    result.set_row_error(KvKind::kKey, 0, position, row_errors[position]);
  }
  return result;
}

TEST(InputName, IsThatOfTheRecording) {
  EXPECT_EQ(to_string(InputName{.batch_size = 4, .input_index = 2}), "batch4_input2");
}

TEST(RunSummary, OfNothingHasNoFigures) {
  const RunSummary run = RunSummaryBuilder().build();
  EXPECT_TRUE(run.modes.empty());
  EXPECT_FALSE(run.amplification.has_value());
  EXPECT_FALSE(run.prefill.tokens.match_rate().has_value());
  EXPECT_TRUE(figures_of(run).empty());
}

// Two inputs, token 0 apart: prefill 1 match, 1 tie; steps 3 matches, 1 tie, 1
// near-tie, 1 hard flip of 6.
TEST(RunSummary, CountsVerdictsOfPrefillAndStepsApart) {
  RunSummaryBuilder builder;
  builder.add({4, 0}, kPromptLength, ReplayMode::kInject, row({kMatch, kMatch, kTie, kMatch}),
              true);
  builder.add({4, 1}, kPromptLength, ReplayMode::kInject, row({kTie, kNearTie, kHardFlip, kMatch}),
              true);
  const RunSummary run = builder.build();

  EXPECT_EQ(run.prefill.tokens.inputs, 2U);
  EXPECT_EQ(run.prefill.tokens.inputs_matching, 1U);
  EXPECT_EQ(run.prefill.tokens.compared, 2U);
  EXPECT_EQ(run.prefill.tokens.ties, 1U);

  ASSERT_EQ(run.modes.size(), 1U);
  const TokenSummary& steps = run.modes[0].steps.tokens;
  EXPECT_EQ(steps.inputs, 2U);
  EXPECT_EQ(steps.inputs_matching, 0U);
  EXPECT_EQ(steps.compared, 6U);
  EXPECT_EQ(steps.matches, 3U);
  EXPECT_EQ(steps.ties, 1U);
  EXPECT_EQ(steps.near_ties, 1U);
  EXPECT_EQ(steps.hard_flips, 1U);
  EXPECT_THAT(steps.match_rate(), Optional(DoubleEq(0.5)));
  EXPECT_THAT(steps.tie_rate(), Optional(DoubleEq(2.0 / 6.0)));
  // P(X >= 3 | 6, p) = 0.05 and P(X >= 5 | 6, p) = 0.05.
  EXPECT_NEAR(steps.match_rate_lower95().value(), 0.1531612, 1e-6);
  EXPECT_NEAR(steps.explained_rate_lower95().value(), 0.4181966, 1e-6);
}

TEST(RunSummary, ListsFirstDivergencesAndHardFlips) {
  RunSummaryBuilder builder;
  builder.add({4, 0}, kPromptLength, ReplayMode::kInject, row({kMatch, kMatch, kMatch}), true);
  builder.add({4, 1}, kPromptLength, ReplayMode::kInject, row({kMatch, kTie, kHardFlip}), true);
  builder.add({4, 2}, kPromptLength, ReplayMode::kInject, row({kHardFlip, kMatch, kMatch}), true);
  const RunSummary run = builder.build();
  const ModeSummary& mode = run.modes.at(0);

  ASSERT_EQ(mode.first_divergences.size(), 3U);
  EXPECT_FALSE(mode.first_divergences[0].token.has_value());
  EXPECT_EQ(mode.first_divergences[0].compared, 3U);
  EXPECT_EQ(mode.first_divergences[1].token->index, 1U);
  EXPECT_EQ(mode.first_divergences[2].token->index, 0U);
  ASSERT_EQ(mode.hard_flips.size(), 2U);
  EXPECT_EQ(mode.hard_flips[0].input.input_index, 1U);
  EXPECT_EQ(mode.hard_flips[0].token.index, 2U);
  EXPECT_EQ(mode.hard_flips[1].token.index, 0U);

  // Agreed tokens 3, 1, 0 of 9.
  EXPECT_THAT(mode.agreed_tokens_min, Optional(0.0));
  EXPECT_THAT(mode.agreed_tokens_median, Optional(1.0));
  EXPECT_THAT(mode.agreed_fraction, Optional(DoubleEq(4.0 / 9.0)));
}

TEST(RunSummary, ListOfHardFlipsIsLimitedTheirCountIsNot) {
  RunSummaryBuilder builder;
  builder.add({1, 0}, kPromptLength, ReplayMode::kForced,
              row(std::vector<TokenVerdict>(kMaxListedFlips + 51, kHardFlip)), false);
  const RunSummary run = builder.build();
  EXPECT_EQ(run.modes[0].hard_flips.size(), kMaxListedFlips);
  EXPECT_EQ(run.modes[0].steps.tokens.hard_flips, kMaxListedFlips + 50);
  EXPECT_EQ(run.prefill.tokens.inputs, 0U) << "the prefill belongs to another mode";
}

// Free: 2 of 6 tokens were compared and the first of them agreed.
TEST(RunSummary, UncomparedStepsCountAsNotAgreed) {
  RunSummaryBuilder builder;
  RowComparison parted = row({kMatch, kTie});
  parted.uncompared_steps = 4;
  builder.add({1, 0}, kPromptLength, ReplayMode::kFree, parted, true);
  const RunSummary run = builder.build();
  EXPECT_EQ(run.modes[0].steps.tokens.uncompared, 4U);
  EXPECT_THAT(run.modes[0].agreed_fraction, Optional(DoubleEq(1.0 / 6.0)));
  EXPECT_EQ(run.prefill.tokens.uncompared, 0U);
  EXPECT_EQ(run.prefill.tokens.inputs_matching, 1U);
}

TEST(RunSummary, ShortRowDoesNotMatchThoughItsTokensDo) {
  RunSummaryBuilder builder;
  RowComparison ended = row({kMatch, kMatch});
  ended.uncompared_steps = 1;
  builder.add({1, 0}, kPromptLength, ReplayMode::kFree, ended, true);
  EXPECT_EQ(builder.build().modes[0].steps.tokens.inputs_matching, 0U);
}

TEST(RunSummary, OneTokenMeansNoSteps) {
  RunSummaryBuilder builder;
  builder.add({1, 0}, kPromptLength, ReplayMode::kInject, row({kMatch}), true);
  const RunSummary run = builder.build();
  EXPECT_EQ(run.modes[0].steps.tokens.compared, 0U);
  EXPECT_EQ(run.modes[0].steps.tokens.inputs_matching, 1U);
  EXPECT_FALSE(run.modes[0].steps.logits.kl_bound.max.has_value());
  EXPECT_THAT(run.modes[0].agreed_fraction, Optional(1.0));

  const Figures figures = figures_of(run);
  EXPECT_EQ(figures.at("inject.tokens.compared"), 0.0);
  EXPECT_EQ(figures.at("inject.tokens.hard_flips"), 0.0);
  EXPECT_EQ(figures.count("inject.tokens.match_rate"), 0U);
  EXPECT_EQ(figures.count("inject.logits.bitwise_rate"), 0U);
  EXPECT_EQ(figures.count("inject.kl.max"), 0U);
  EXPECT_EQ(figures.count("inject.kv.key.relative_l2"), 0U);
  EXPECT_EQ(figures.at("prefill.tokens.match_rate"), 1.0);
}

TEST(RunSummary, SummarizesDivergencesAndNamesTheWorstStep) {
  RowComparison first = row({kMatch, kMatch, kMatch});
  first.tokens[1].kl = 0.5;
  first.tokens[2].kl = 0.125;
  RowComparison second = row({kMatch, kMatch, kMatch});
  second.tokens[1].kl = std::numeric_limits<double>::quiet_NaN();
  second.tokens[2].kl = 1.0;
  second.tokens[2].logits_equal = true;
  RunSummaryBuilder builder;
  builder.add({2, 0}, kPromptLength, ReplayMode::kInject, first, true);
  builder.add({2, 1}, kPromptLength, ReplayMode::kInject, second, true);
  const LogitSummary logits = builder.build().modes[0].steps.logits;
  EXPECT_EQ(logits.compared, 4U);
  EXPECT_EQ(logits.bitwise_equal, 1U);
  EXPECT_EQ(logits.kl_bound.measured, 3U);
  EXPECT_THAT(logits.kl_bound.mean, Optional(DoubleEq(1.625 / 3.0)));
  EXPECT_THAT(logits.kl_bound.median, Optional(0.5));
  EXPECT_THAT(logits.kl_bound.p99, Optional(1.0));
  EXPECT_THAT(logits.kl_bound.max, Optional(1.0));
  ASSERT_TRUE(logits.kl_bound.worst.has_value());
  EXPECT_EQ(logits.kl_bound.worst->input.input_index, 1U);
  EXPECT_EQ(logits.kl_bound.worst->token_index, 2U);
  EXPECT_THAT(logits.top1_agreement, Optional(1.0));
  EXPECT_THAT(logits.top5_agreement, Optional(DoubleEq(0.8)));
}

// Steps: deltas 0.3, -0.4 and an unknown one; sqrt((0.09 + 0.16) / 2).
TEST(RunSummary, AveragesWhatEachTokenHas) {
  RowComparison comparison = row({kMatch, kMatch, kTie, kHardFlip});
  comparison.tokens[1].delta_p = 0.3;
  comparison.tokens[2].delta_p = -0.4;
  comparison.tokens[3].delta_p = std::numeric_limits<double>::quiet_NaN();
  comparison.tokens[1].top100_overlap = 0.5;
  comparison.tokens[3].top100_overlap = std::nullopt;
  RunSummaryBuilder builder;
  builder.add({2, 0}, kPromptLength, ReplayMode::kInject, comparison, true);
  const RunSummary run = builder.build();
  const LogitSummary& logits = run.modes[0].steps.logits;
  EXPECT_EQ(logits.delta_p_measured, 2U);
  EXPECT_THAT(logits.rms_delta_p, Optional(DoubleEq(std::sqrt(0.125))));
  EXPECT_EQ(logits.top100_measured, 2U);
  EXPECT_THAT(logits.top100_agreement, Optional(DoubleEq(0.7)));
  EXPECT_THAT(logits.top5_accuracy, Optional(DoubleEq(2.0 / 3.0)));
  const Figures figures = figures_of(run);
  EXPECT_DOUBLE_EQ(figures.at("inject.logits.rms_delta_p"), std::sqrt(0.125));
  EXPECT_DOUBLE_EQ(figures.at("inject.logits.top100_agreement"), 0.7);
  EXPECT_DOUBLE_EQ(figures.at("inject.logits.top5_accuracy"), 2.0 / 3.0);
}

// Tokens were compared, but none of them has what these figures are made of.
TEST(RunSummary, FigureOfNoTokenIsNotMeasured) {
  RowComparison comparison = row({kMatch, kMatch});
  for (TokenComparison& each : comparison.tokens) {
    each.top100_overlap = std::nullopt;
    each.delta_p = std::numeric_limits<double>::quiet_NaN();
  }
  RunSummaryBuilder builder;
  builder.add({2, 0}, kPromptLength, ReplayMode::kInject, comparison, true);
  const Figures figures = figures_of(builder.build());
  EXPECT_EQ(figures.at("inject.logits.top5_accuracy"), 1.0);
  EXPECT_EQ(figures.count("inject.logits.top100_agreement"), 0U);
  EXPECT_EQ(figures.count("inject.logits.rms_delta_p"), 0U);
}

TEST(RunSummary, EqualDistributionsHaveNoWorstStep) {
  RunSummaryBuilder builder;
  builder.add({2, 0}, kPromptLength, ReplayMode::kInject, row({kMatch, kMatch}), true);
  const LogitSummary logits = builder.build().modes[0].steps.logits;
  EXPECT_THAT(logits.kl_bound.max, Optional(0.0));
  EXPECT_FALSE(logits.kl_bound.worst.has_value());
}

RowComparison with_kl(double kl) {
  RowComparison result = row({kMatch, kMatch});
  result.tokens[1].kl = kl;
  return result;
}

TEST(RunSummary, AmplificationIsTheRatioOfTheMedians) {
  RunSummaryBuilder builder;
  builder.add({1, 0}, kPromptLength, ReplayMode::kInject, with_kl(0.25), true);
  EXPECT_FALSE(builder.build().amplification.has_value());
  builder.add({1, 0}, kPromptLength, ReplayMode::kForced, with_kl(2.0), false);
  EXPECT_THAT(builder.build().amplification, Optional(DoubleEq(8.0)));
  EXPECT_EQ(builder.build().prefill.tokens.inputs, 1U);
}

TEST(RunSummary, AmplificationOfNothingIsUnknown) {
  RunSummaryBuilder builder;
  builder.add({1, 0}, kPromptLength, ReplayMode::kInject, with_kl(0.0), true);
  builder.add({1, 0}, kPromptLength, ReplayMode::kForced, with_kl(2.0), false);
  EXPECT_FALSE(builder.build().amplification.has_value());
}

TEST(RunSummary, PoolsProfilesAndKeepsTheFirstDeparture) {
  RowComparison fine = row({kMatch});
  fine.step_kv = profile({0.0, 0.0, 0.0});
  RowComparison faulty = fine;
  faulty.step_kv = profile({0.0, 0.0, 0.5, 0.0});
  RowComparison later = fine;
  later.step_kv = profile({0.25, 0.0, 0.0});
  RunSummaryBuilder builder;
  builder.add({3, 0}, kPromptLength, ReplayMode::kInject, fine, true);
  builder.add({3, 1}, kPromptLength, ReplayMode::kInject, faulty, true);
  builder.add({3, 2}, kPromptLength, ReplayMode::kInject, later, true);
  const RunSummary run = builder.build();
  const KvSummary& kv = run.modes[0].steps.kv;
  EXPECT_EQ(kv.profile.num_positions(), 4U);
  EXPECT_EQ(kv.profile.total(KvKind::kKey).elements, 40U);
  EXPECT_EQ(kv.profile.row_error(KvKind::kKey, 0, 2), 0.5F);
  ASSERT_TRUE(kv.departure.has_value());
  EXPECT_EQ(kv.departure->position, 2U);
  EXPECT_EQ(kv.departure_input.input_index, 1U);
  EXPECT_EQ(kv.departure_first_position, kPromptLength);
  EXPECT_FALSE(run.prefill.kv.profile.measured());
  EXPECT_FALSE(run.prefill.kv.departure.has_value());
}

TEST(RunSummary, FindsModesByName) {
  RunSummaryBuilder builder;
  builder.add({1, 0}, kPromptLength, ReplayMode::kForced, row({kMatch}), true);
  const RunSummary run = builder.build();
  ASSERT_NE(run.mode(ReplayMode::kForced), nullptr);
  EXPECT_EQ(run.mode(ReplayMode::kForced)->mode, ReplayMode::kForced);
  EXPECT_EQ(run.mode(ReplayMode::kInject), nullptr);
}

// A run in which everything is measured.
RunSummary full_run() {
  RunSummaryBuilder builder;
  bool first = true;
  for (const ReplayMode mode : {ReplayMode::kInject, ReplayMode::kForced, ReplayMode::kFree}) {
    RowComparison comparison = row({kMatch, kTie});
    comparison.tokens[1].kl = 0.5;
    for (TokenComparison& each : comparison.tokens) {
      each.kl_estimate = {.value = 0.6, .standard_error = 0.1, .reliable = true};
      each.noise = {.top = 0.1, .sample = 0.1, .deviation = 2.0};
      each.flip_probability = 0.5;
      each.hard_flip_probability = 0.1;
    }
    comparison.prefill_kv = profile({0.0, 0.3});
    comparison.step_kv = profile({0.3, 0.4});
    builder.add({1, 0}, kPromptLength, mode, comparison, first);
    first = false;
  }
  return builder.build();
}

TEST(Figures, OfAFullRunAreExactlyTheKnownOnes) {
  std::vector<std::string> names;
  for (const auto& [name, value] : figures_of(full_run())) names.push_back(name);
  EXPECT_EQ(names, known_figures());
  EXPECT_TRUE(std::is_sorted(known_figures().begin(), known_figures().end()));
}

// K errors 0.3 and 0.4 of rows of 4: relative L2 sqrt((0.09 + 0.16) / 2).
TEST(Figures, HoldTheSummarysValues) {
  const Figures figures = figures_of(full_run());
  EXPECT_EQ(figures.at("inject.tokens.compared"), 1.0);
  EXPECT_EQ(figures.at("inject.tokens.ties"), 1.0);
  EXPECT_EQ(figures.at("inject.tokens.tie_rate"), 1.0);
  EXPECT_EQ(figures.at("inject.tokens.agreed_fraction"), 0.5);
  EXPECT_EQ(figures.at("prefill.tokens.matches"), 1.0);
  EXPECT_EQ(figures.at("forced.kl.max"), 0.5);
  EXPECT_EQ(figures.at("forced.amplification"), 1.0);
  EXPECT_DOUBLE_EQ(figures.at("free.kv.key.relative_l2"), std::sqrt(0.125));
  EXPECT_DOUBLE_EQ(figures.at("free.kv.key.layer_max.relative_l2"), std::sqrt(0.125));
  EXPECT_DOUBLE_EQ(figures.at("free.kv.key.relative_max"), 0.4);
  EXPECT_FLOAT_EQ(static_cast<float>(figures.at("free.kv.key.row_max.relative_l2")), 0.4F);
  EXPECT_EQ(figures.at("free.kv.key.differing_rate"), 1.0);
  EXPECT_EQ(figures.at("free.kv.value.relative_l2"), 0.0);
  EXPECT_EQ(figures.at("free.kv.value.cosine"), 1.0);
  EXPECT_EQ(figures.at("prefill.kv.key.differing_rate"), 0.5);
  EXPECT_EQ(figures.at("prefill.kv.key.nonfinite"), 0.0);
}

// Two layers of two heads; one head is 10 % too large.
TEST(Figures, LargestLayerAndHeadCountNotTheirSigns) {
  RowComparison comparison = row({kMatch});
  comparison.step_kv = KvProfile({2, 2}, 16);
  for (const KvKind kind : kKvKinds) {
    for (std::size_t layer = 0; layer < 2; ++layer) {
      for (std::uint32_t head = 0; head < 2; ++head) {
        KvError error;
        error.elements = 10;
        error.sum_squared_reference = 10.0;
        error.sum_squared_floor = 10.0 * 0.01 * 0.01;
        if (kind == KvKind::kValue && layer == 1 && head == 0) {
          error.sum_squared_error = 10.0 * 0.1 * 0.1;
          error.sum_error_reference = -10.0 * 0.1;
        }
        comparison.step_kv.add(kind, layer, head, 0, error);
      }
    }
  }
  RunSummaryBuilder builder;
  builder.add({1, 0}, kPromptLength, ReplayMode::kInject, comparison, true);
  const Figures figures = figures_of(builder.build());
  EXPECT_DOUBLE_EQ(figures.at("inject.kv.value.scale_error"), 0.1 / 4.0);
  EXPECT_DOUBLE_EQ(figures.at("inject.kv.value.layer_max.scale_error"), 0.1 / 2.0);
  EXPECT_DOUBLE_EQ(figures.at("inject.kv.value.head_max.scale_error"), 0.1);
  EXPECT_DOUBLE_EQ(figures.at("inject.kv.value.head_max.relative_l2"), 0.1);
  EXPECT_DOUBLE_EQ(figures.at("inject.kv.value.layer_max.relative_l2"), 0.1 / std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(figures.at("inject.kv.value.layer_max.floor_ratio"), 10.0 / std::sqrt(2.0));
  EXPECT_EQ(figures.at("inject.kv.key.head_max.scale_error"), 0.0);
  EXPECT_EQ(figures.count("inject.kv.key.row_max.relative_l2"), 0U) << "no row was measured";
}

// Correlations 0.5 of layer 0 and -0.25 of layer 1, of equal size; layer 2 was not measured.
TEST(Figures, PearsonIsPooledAndOfTheWorstLayer) {
  RowComparison comparison = row({kMatch});
  comparison.step_kv = KvProfile({1, 1, 1}, 16);
  KvError error;
  error.elements = 4;
  error.moments = {.count = 4, .live = 2.0, .reference = 2.0, .product = 1.0};
  comparison.step_kv.add(KvKind::kKey, 0, 0, 0, error);
  error.moments.product = -0.5;
  comparison.step_kv.add(KvKind::kKey, 1, 0, 0, error);
  RunSummaryBuilder builder;
  builder.add({1, 0}, kPromptLength, ReplayMode::kInject, comparison, true);
  const Figures figures = figures_of(builder.build());
  EXPECT_DOUBLE_EQ(figures.at("inject.kv.key.layer_min.pearson"), -0.25);
  EXPECT_DOUBLE_EQ(figures.at("inject.kv.key.pearson"), 0.125);
  EXPECT_EQ(figures.count("inject.kv.value.layer_min.pearson"), 0U) << "V was not measured";
}

TEST(Figures, CountNonFiniteValues) {
  RowComparison comparison = row({kMatch, kHardFlip});
  comparison.tokens[1].nonfinite = true;
  comparison.step_kv = KvProfile({1}, 16);
  KvError error;
  error.elements = 4;
  error.nonfinite = 4;
  comparison.step_kv.add(KvKind::kKey, 0, 0, 0, error);
  RunSummaryBuilder builder;
  builder.add({1, 0}, kPromptLength, ReplayMode::kInject, comparison, true);
  const Figures figures = figures_of(builder.build());
  EXPECT_EQ(figures.at("inject.tokens.nonfinite"), 1.0);
  EXPECT_EQ(figures.at("inject.kv.key.nonfinite"), 4.0);
  EXPECT_EQ(figures.count("inject.kv.value.nonfinite"), 0U) << "V was not measured";
}

}  // namespace
}  // namespace kvtool::analysis
