// The tables are computed by hand: bf16 keeps 7 fraction bits, so around 17.0
// (floor(log2) = 4) one ulp is 2^(4-7) = 0.125, and around 1.0 it is 2^-7.
#include "kvtool/analysis/tokens.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "analysis/token_stats.h"

namespace kvtool::analysis {
namespace {

using format::StepStats;

TokenComparison compare(const StepStats& reference, const StepStats& live,
                        DType dtype = DType::kBFloat16,
                        double near_tie_ulps = FlipBounds().near_tie_ulps) {
  StretchCandidates candidates;
  return compare_token(3, reference, live,
                       {.reference_logits_dtype = dtype,
                        .live_logits_dtype = dtype,
                        .bounds = {.near_tie_ulps = near_tie_ulps}},
                       candidates);
}

TEST(TokenComparison, EqualStatisticsMatchBitwise) {
  const StepStats both = stats({5, 9}, {17.0F, 16.0F});
  const TokenComparison token = compare(both, both);
  EXPECT_EQ(token.index, 3U);
  EXPECT_EQ(token.recorded, 5);
  EXPECT_EQ(token.predicted, 5);
  EXPECT_EQ(token.margin, 1.0);
  EXPECT_EQ(token.gap, 0.0);
  EXPECT_FALSE(token.gap_is_bound);
  EXPECT_EQ(token.ulp, 0.125);
  EXPECT_EQ(token.verdict, TokenVerdict::kMatch);
  EXPECT_TRUE(token.logits_equal);
  EXPECT_FALSE(token.nonfinite);
  EXPECT_EQ(token.kl, 0.0);
  EXPECT_TRUE(token.top1_agrees);
  EXPECT_EQ(token.top5_overlap, 1.0);
}

struct VerdictCase {
  const char* name;
  DType dtype;
  float recorded_logit;
  float predicted_logit;
  double tolerance_ulps;
  double ulp;
  TokenVerdict verdict;
};

class MismatchVerdict : public testing::TestWithParam<VerdictCase> {};

TEST_P(MismatchVerdict, FollowsTheGapInUlps) {
  const VerdictCase& given = GetParam();
  const TokenComparison token =
      compare(stats({5, 9}, {given.recorded_logit, given.predicted_logit}),
              stats({9, 5}, {17.0F, 17.0F}), given.dtype, given.tolerance_ulps);
  EXPECT_EQ(token.ulp, given.ulp);
  EXPECT_EQ(token.verdict, given.verdict)
      << verdict_name(token.verdict) << " with gap " << token.gap;
}

INSTANTIATE_TEST_SUITE_P(
    Table, MismatchVerdict,
    testing::Values(
        VerdictCase{"ExactTie", DType::kBFloat16, 17.0F, 17.0F, 2.0, 0.125, TokenVerdict::kTie},
        VerdictCase{"OneUlp", DType::kBFloat16, 17.0F, 16.875F, 2.0, 0.125, TokenVerdict::kTie},
        VerdictCase{"TwoUlps", DType::kBFloat16, 17.0F, 16.75F, 2.0, 0.125, TokenVerdict::kNearTie},
        VerdictCase{"ThreeUlps", DType::kBFloat16, 17.0F, 16.625F, 2.0, 0.125,
                    TokenVerdict::kHardFlip},
        VerdictCase{"ThreeUlpsWithinAWiderTolerance", DType::kBFloat16, 17.0F, 16.625F, 3.0, 0.125,
                    TokenVerdict::kNearTie},
        VerdictCase{"OneUlpIsATieWhateverTheTolerance", DType::kBFloat16, 17.0F, 16.875F, 0.0,
                    0.125, TokenVerdict::kTie},
        // 16 starts a binade: below it the spacing halves, the recorded logit's ulp counts.
        VerdictCase{"AcrossABinade", DType::kBFloat16, 16.0F, 15.9375F, 2.0, 0.125,
                    TokenVerdict::kTie},
        VerdictCase{"NegativeLogits", DType::kBFloat16, -17.0F, -17.25F, 2.0, 0.125,
                    TokenVerdict::kNearTie},
        VerdictCase{"Float16", DType::kFloat16, 17.0F, 16.984375F, 2.0, 0.015625,
                    TokenVerdict::kTie},
        VerdictCase{"Float16JustBeyondTheTolerance", DType::kFloat16, 17.0F, 16.953125F, 2.0,
                    0.015625, TokenVerdict::kHardFlip},
        VerdictCase{"Float32", DType::kFloat32, 1.0F, 1.0F - 0x1p-23F, 2.0, 0x1p-23,
                    TokenVerdict::kTie},
        VerdictCase{"Float32HardFlip", DType::kFloat32, 1.0F, 1.0F - 0x1p-21F, 2.0, 0x1p-23,
                    TokenVerdict::kHardFlip}),
    [](const auto& row) { return std::string(row.param.name); });

// The runner-up is an exact tie, but it is not what was predicted.
TEST(TokenComparison, FarTokenIsAHardFlipWhateverTheMargin) {
  const TokenComparison token =
      compare(stats({5, 9, 2}, {17.0F, 17.0F, 12.0F}), stats({2, 5, 9}, {17.0F, 16.0F, 16.0F}));
  EXPECT_EQ(token.margin, 0.0);
  EXPECT_EQ(token.gap, 5.0);
  EXPECT_FALSE(token.gap_is_bound);
  EXPECT_EQ(token.verdict, TokenVerdict::kHardFlip);
}

// The gap is 0.125 or more: it may be any larger, so nothing shows a tie.
TEST(TokenComparison, UnrecordedTokenIsAHardFlipWhereTheLiveLogitsDoNotSayMore) {
  const TokenComparison token =
      compare(stats({5, 9}, {17.0F, 16.875F}), stats({3, 9}, {17.0F, 17.0F}));
  EXPECT_EQ(token.gap, 0.125);
  EXPECT_TRUE(token.gap_is_bound);
  EXPECT_TRUE(std::isnan(token.live_gap));
  EXPECT_TRUE(std::isnan(token.judged_gap()));
  EXPECT_EQ(token.verdict, TokenVerdict::kHardFlip);
}

struct UnrecordedCase {
  const char* name;
  float last_recorded;
  float live_recorded;  // live logit of the recorded token; the predicted one has 17
  double judged_gap;
  TokenVerdict verdict;
};

class UnrecordedToken : public testing::TestWithParam<UnrecordedCase> {};

TEST_P(UnrecordedToken, IsJudgedByTheLargerOfBoundAndLiveGap) {
  const UnrecordedCase& given = GetParam();
  const TokenComparison token = compare(stats({5, 9}, {17.0F, given.last_recorded}),
                                        stats({3, 5}, {17.0F, given.live_recorded}));
  EXPECT_TRUE(token.gap_is_bound);
  EXPECT_EQ(token.judged_gap(), given.judged_gap);
  EXPECT_EQ(token.verdict, given.verdict) << verdict_name(token.verdict);
}

INSTANTIATE_TEST_SUITE_P(
    Table, UnrecordedToken,
    testing::Values(
        UnrecordedCase{"AllEqual", 17.0F, 17.0F, 0.0, TokenVerdict::kTie},
        UnrecordedCase{"LiveIsOneUlpLower", 17.0F, 16.875F, 0.125, TokenVerdict::kTie},
        UnrecordedCase{"LastRecordedIsOneUlpLower", 16.875F, 17.0F, 0.125, TokenVerdict::kTie},
        UnrecordedCase{"LiveIsTwoUlpsLower", 17.0F, 16.75F, 0.25, TokenVerdict::kNearTie},
        UnrecordedCase{"LiveIsFarLower", 17.0F, 12.0F, 5.0, TokenVerdict::kHardFlip},
        UnrecordedCase{"LastRecordedIsFarLower", 12.0F, 17.0F, 5.0, TokenVerdict::kHardFlip}),
    [](const auto& row) { return std::string(row.param.name); });

TEST(TokenComparison, SeesNonfiniteStatisticsOfEitherSide) {
  const StepStats finite = stats({5, 9}, {17.0F, 16.0F});
  for (const float bad : {kNan, -kNan, kInf}) {
    StepStats holds = finite;
    holds.logsumexp = bad;
    EXPECT_TRUE(compare(finite, holds).nonfinite);
    EXPECT_TRUE(compare(holds, finite).nonfinite);
    holds = stats({5, 9}, {17.0F, bad});
    EXPECT_TRUE(compare(finite, holds).nonfinite);
    EXPECT_TRUE(compare(holds, finite).nonfinite);
  }
}

TEST(TokenComparison, UlpIsThatOfTheCoarserHead) {
  const StepStats reference = stats({5, 9}, {17.0F, 16.875F});
  const StepStats live = stats({9, 5}, {17.0F, 17.0F});
  for (const bool live_is_coarser : {false, true}) {
    StretchCandidates candidates;
    const TokenComparison token = compare_token(
        0, reference, live,
        {.reference_logits_dtype = live_is_coarser ? DType::kFloat32 : DType::kBFloat16,
         .live_logits_dtype = live_is_coarser ? DType::kBFloat16 : DType::kFloat32},
        candidates);
    EXPECT_EQ(token.ulp, 0.125);
    EXPECT_EQ(token.verdict, TokenVerdict::kTie);
  }
}

TEST(TokenComparison, MarginIsUnknownWithOneRecordedLogit) {
  const TokenComparison mismatch = compare(stats({5}, {17.0F}), stats({9}, {17.0F}));
  EXPECT_TRUE(std::isnan(mismatch.margin));
  EXPECT_EQ(mismatch.ulp, 0.125);
  EXPECT_EQ(mismatch.verdict, TokenVerdict::kHardFlip);
  EXPECT_EQ(compare(stats({5}, {17.0F}), stats({5}, {17.0F})).verdict, TokenVerdict::kMatch);
}

TEST(TokenComparison, MarginIsUnknownWithoutRecordedLogits) {
  const StepStats none = stats({}, {});
  StepStats recorded = none;
  recorded.token = 5;
  const TokenComparison token = compare(recorded, recorded);
  EXPECT_TRUE(std::isnan(token.margin));
  EXPECT_TRUE(std::isnan(token.ulp));
  EXPECT_TRUE(std::isnan(token.kl));
  EXPECT_EQ(token.verdict, TokenVerdict::kMatch);
  EXPECT_TRUE(token.top1_agrees);
  EXPECT_EQ(token.top5_overlap, 1.0);
  StepStats other = none;
  other.token = 6;
  const TokenComparison mismatch = compare(recorded, other);
  EXPECT_TRUE(std::isnan(mismatch.gap));
  EXPECT_EQ(mismatch.verdict, TokenVerdict::kHardFlip);
}

TEST(TokenComparison, MarginLooksForARecordedTokenThatIsNotFirst) {
  StepStats reference = stats({5, 9, 2}, {17.0F, 16.0F, 15.0F});
  reference.token = 9;
  const TokenComparison token = compare(reference, stats({2, 5, 9}, {17.0F, 16.0F, 15.0F}));
  EXPECT_EQ(token.margin, -1.0);
  EXPECT_EQ(token.gap, 1.0);
  EXPECT_EQ(token.verdict, TokenVerdict::kHardFlip);
}

TEST(TokenComparison, PredictionWithoutFiniteLogitIsAHardFlip) {
  StepStats live = stats({5, 9}, {kNan, kNan});
  live.token = -1;
  live.logsumexp = kNan;
  const TokenComparison token = compare(stats({5, 9}, {17.0F, 17.0F}), live);
  EXPECT_EQ(token.predicted, -1);
  EXPECT_TRUE(std::isnan(token.gap));
  EXPECT_TRUE(std::isnan(token.kl));
  EXPECT_FALSE(token.top1_agrees);
  EXPECT_EQ(token.top5_overlap, 0.0);
  EXPECT_TRUE(token.nonfinite);
  EXPECT_EQ(token.verdict, TokenVerdict::kHardFlip);
}

TEST(TokenComparison, TwoPredictionsWithoutFiniteLogitDoNotMatch) {
  StepStats broken = stats({5, 9}, {kNan, kNan});
  broken.token = -1;
  EXPECT_EQ(compare(broken, broken).verdict, TokenVerdict::kHardFlip);
}

TEST(TokenComparison, MismatchWithNonFiniteLogitsIsNoTie) {
  const TokenComparison token =
      compare(stats({5, 9}, {17.0F, 17.0F}), stats({9, 5}, {kInf, 17.0F}));
  EXPECT_TRUE(token.nonfinite);
  EXPECT_EQ(token.verdict, TokenVerdict::kHardFlip);
}

TEST(TokenComparison, MatchKeepsItsNonFiniteMark) {
  StepStats live = stats({5, 9}, {17.0F, 16.0F});
  live.logsumexp = kInf;
  const TokenComparison token = compare(stats({5, 9}, {17.0F, 16.0F}), live);
  EXPECT_TRUE(token.nonfinite);
  EXPECT_EQ(token.verdict, TokenVerdict::kMatch);
}

TEST(TokenComparison, InfiniteRecordedLogitGivesNoMargin) {
  const TokenComparison token = compare(stats({5, 9}, {kInf, 16.0F}), stats({9, 5}, {17.0F, 1.0F}));
  EXPECT_EQ(token.margin, std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(token.ulp));
  EXPECT_EQ(token.verdict, TokenVerdict::kHardFlip);
}

TEST(TokenComparison, EveryStatisticCountsForBitwiseEquality) {
  const StepStats reference = stats({5, 9}, {17.0F, 16.0F});
  StepStats other_id = reference;
  other_id.top_ids[1] = 8;
  StepStats other_logit = reference;
  other_logit.top_logits[1] = std::nextafter(16.0F, 0.0F);
  StepStats other_sum = reference;
  other_sum.logsumexp = std::nextafter(reference.logsumexp, 0.0);
  StepStats other_digest = reference;
  other_digest.logits_digest = 78;
  StepStats fewer = reference;
  fewer.top_ids.pop_back();
  fewer.top_logits.pop_back();
  for (const StepStats& live : {other_id, other_logit, other_sum, other_digest, fewer}) {
    const TokenComparison token = compare(reference, live);
    EXPECT_FALSE(token.logits_equal);
    EXPECT_EQ(token.verdict, TokenVerdict::kMatch);
  }
}

TEST(TokenComparison, BitwiseEqualityTellsZerosApartAndNansAlike) {
  EXPECT_FALSE(compare(stats({5, 9}, {17.0F, 0.0F}), stats({5, 9}, {17.0F, -0.0F})).logits_equal);
  EXPECT_TRUE(compare(stats({5, 9}, {17.0F, kNan}), stats({5, 9}, {17.0F, kNan})).logits_equal);
}

TEST(TokenComparison, AbsentDigestIsNoDifference) {
  const StepStats reference = stats({5, 9}, {17.0F, 16.0F});
  StepStats without = reference;
  without.logits_digest = 0;
  EXPECT_TRUE(compare(reference, without).logits_equal);
  EXPECT_TRUE(compare(without, reference).logits_equal);
}

TEST(TokenComparison, InputTokenAndTimeDoNotCount) {
  const StepStats reference = stats({5, 9}, {17.0F, 16.0F});
  StepStats live = reference;
  live.input_token = 4;
  live.elapsed_ns = 12345;
  EXPECT_TRUE(compare(reference, live).logits_equal);
}

TEST(TokenComparison, TopFiveCountsCommonIdsInAnyOrder) {
  const StepStats reference = stats({1, 2, 3, 4, 5, 6}, {6.0F, 5.0F, 4.0F, 3.0F, 2.0F, 1.0F});
  const StepStats live = stats({2, 1, 9, 6, 4, 3}, {6.0F, 5.0F, 4.0F, 3.0F, 2.0F, 1.0F});
  const TokenComparison token = compare(reference, live);
  EXPECT_FALSE(token.top1_agrees);
  EXPECT_DOUBLE_EQ(token.top5_overlap, 0.6) << "1, 2 and 4; 3 and 6 are beyond one side's five";
  // Of two recorded ids, two can agree.
  EXPECT_EQ(compare(stats({1, 2}, {6.0F, 5.0F}), live).top5_overlap, 1.0);
}

// The live best id counts by where the reference has it, not the reverse.
TEST(TokenComparison, TopFiveAccuracyLooksForTheLiveBestInTheReferencesFive) {
  const StepStats reference = stats({1, 2, 3, 4, 5, 6}, {6.0F, 5.0F, 4.0F, 3.0F, 2.0F, 1.0F});
  const std::vector<float> falling{6.0F, 5.0F, 4.0F, 3.0F, 2.0F, 1.0F};
  EXPECT_TRUE(compare(reference, stats({1, 2, 3, 4, 5, 6}, falling)).in_top5);
  EXPECT_TRUE(compare(reference, stats({5, 7, 8, 9, 10, 11}, falling)).in_top5);
  EXPECT_FALSE(compare(reference, stats({6, 1, 2, 3, 4, 5}, falling)).in_top5);
  EXPECT_FALSE(compare(stats({1, 2}, {6.0F, 5.0F}), stats({3, 1}, {6.0F, 5.0F})).in_top5);
  StepStats broken = reference;
  broken.token = -1;
  EXPECT_FALSE(compare(reference, broken).in_top5);
}

// Ids first, first + 1, ... with falling logits.
StepStats consecutive(std::int32_t first, std::size_t count) {
  std::vector<std::int32_t> ids;
  std::vector<float> logits;
  for (std::size_t i = 0; i < count; ++i) {
    ids.push_back(first + static_cast<std::int32_t>(i));
    logits.push_back(10.0F - 0.0625F * static_cast<float>(i));
  }
  return stats(std::move(ids), std::move(logits));
}

// Of 1 to 100 and 31 to 130, the 70 from 31 to 100 are common.
TEST(TokenComparison, TopHundredNeedsAHundredOnBothSides) {
  EXPECT_DOUBLE_EQ(compare(consecutive(1, 100), consecutive(31, 100)).top100_overlap.value(), 0.7);
  EXPECT_DOUBLE_EQ(compare(consecutive(1, 120), consecutive(31, 150)).top100_overlap.value(), 0.7)
      << "what is recorded beyond the hundred does not count";
  EXPECT_EQ(compare(consecutive(1, 100), consecutive(1, 100)).top100_overlap.value(), 1.0);
  EXPECT_FALSE(compare(consecutive(1, 99), consecutive(1, 100)).top100_overlap.has_value());
  EXPECT_FALSE(compare(consecutive(1, 100), consecutive(1, 99)).top100_overlap.has_value());
  StepStats broken = consecutive(1, 100);
  broken.token = -1;
  EXPECT_EQ(compare(consecutive(1, 100), broken).top100_overlap.value(), 0.0);
}

TEST(TokenComparison, DeltaPIsOfTheRecordedToken) {
  const StepStats reference = distribution({1, 2}, {0.5, 0.25});
  EXPECT_EQ(compare(reference, reference).delta_p, 0.0);
  EXPECT_NEAR(compare(reference, distribution({2, 1}, {0.625, 0.125})).delta_p, -0.375, 1e-7);
  EXPECT_NEAR(compare(reference, distribution({1, 2}, {0.75, 0.125})).delta_p, 0.25, 1e-7);
}

// Id 1 has between 0 and the last live probability.
TEST(TokenComparison, DeltaPOfWhatTheLiveSideDidNotRecordIsTheLargestPossible) {
  EXPECT_NEAR(compare(distribution({1}, {0.5}), distribution({7, 8}, {0.5, 0.125})).delta_p, -0.5,
              1e-7);
  EXPECT_NEAR(compare(distribution({1}, {0.125}), distribution({7, 8}, {0.5, 0.5})).delta_p, 0.375,
              1e-7);
}

TEST(TokenComparison, DeltaPIsUnknownWithoutTheRecordedTokensLogit) {
  const StepStats fine = distribution({1, 2}, {0.5, 0.25});
  StepStats sampled = fine;
  sampled.token = 3;
  EXPECT_TRUE(std::isnan(compare(sampled, fine).delta_p));
  EXPECT_TRUE(std::isnan(compare(fine, stats({}, {})).delta_p));
  StepStats bare = fine;
  bare.top_ids.clear();
  bare.top_logits.clear();
  EXPECT_TRUE(std::isnan(compare(fine, bare).delta_p));
  EXPECT_TRUE(std::isnan(compare(bare, fine).delta_p));
  StepStats broken = fine;
  broken.top_logits[1] = kNan;
  EXPECT_TRUE(std::isnan(compare(fine, broken).delta_p));
  EXPECT_TRUE(std::isnan(compare(broken, fine).delta_p));
}

TEST(TokenComparison, VerdictsHaveNames) {
  EXPECT_EQ(verdict_name(TokenVerdict::kMatch), "match");
  EXPECT_EQ(verdict_name(TokenVerdict::kTie), "tie");
  EXPECT_EQ(verdict_name(TokenVerdict::kNoise), "noise");
  EXPECT_EQ(verdict_name(TokenVerdict::kNearTie), "near_tie");
  EXPECT_EQ(verdict_name(TokenVerdict::kHardFlip), "hard_flip");
}

}  // namespace
}  // namespace kvtool::analysis
