// The tables are computed by hand: bf16 keeps 7 fraction bits, so around 17.0
// (floor(log2) = 4) one ulp is 2^(4-7) = 0.125, and around 1.0 it is 2^-7.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kvtool/analysis/comparison.h"

namespace kvtool::analysis {
namespace {

using format::StepStats;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

StepStats stats(std::vector<std::int32_t> ids, std::vector<float> logits) {
  StepStats result;
  result.token = ids.empty() ? -1 : ids.front();
  result.logsumexp = 20.0;
  result.logits_digest = 77;
  result.top_ids = std::move(ids);
  result.top_logits = std::move(logits);
  return result;
}

TokenComparison compare(const StepStats& reference, const StepStats& live,
                        DType dtype = DType::kBFloat16, ComparisonOptions options = {}) {
  return compare_token(3, dtype, reference, live, options);
}

TEST(TokenComparison, EqualStatisticsMatchBitwise) {
  const StepStats both = stats({5, 9}, {17.0F, 16.0F});
  const TokenComparison token = compare(both, both);
  EXPECT_EQ(token.index, 3U);
  EXPECT_EQ(token.recorded, 5);
  EXPECT_EQ(token.predicted, 5);
  EXPECT_EQ(token.margin, 1.0);
  EXPECT_EQ(token.ulp, 0.125);
  EXPECT_EQ(token.verdict, TokenVerdict::kMatch);
  EXPECT_TRUE(token.logits_equal);
  EXPECT_FALSE(token.nonfinite);
}

struct VerdictCase {
  const char* name;
  DType dtype;
  float recorded_logit;
  float best_other_logit;
  double tolerance_ulps;
  double ulp;
  TokenVerdict verdict;
};

class MismatchVerdict : public testing::TestWithParam<VerdictCase> {};

TEST_P(MismatchVerdict, FollowsTheMarginInUlps) {
  const VerdictCase& given = GetParam();
  const TokenComparison token =
      compare(stats({5, 9}, {given.recorded_logit, given.best_other_logit}),
              stats({9, 5}, {17.0F, 17.0F}), given.dtype, {.tolerance_ulps = given.tolerance_ulps});
  EXPECT_EQ(token.ulp, given.ulp);
  EXPECT_EQ(token.verdict, given.verdict)
      << verdict_name(token.verdict) << " with margin " << token.margin;
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
  EXPECT_EQ(token.verdict, TokenVerdict::kMatch);
}

TEST(TokenComparison, MarginLooksForARecordedTokenThatIsNotFirst) {
  StepStats reference = stats({5, 9, 2}, {17.0F, 16.0F, 15.0F});
  reference.token = 9;
  const TokenComparison token = compare(reference, stats({2, 5, 9}, {17.0F, 16.0F, 15.0F}));
  EXPECT_EQ(token.margin, -1.0);
  EXPECT_EQ(token.verdict, TokenVerdict::kTie);
}

TEST(TokenComparison, PredictionWithoutFiniteLogitIsAHardFlip) {
  StepStats live = stats({5, 9}, {kNan, kNan});
  live.token = -1;
  live.logsumexp = kNan;
  const TokenComparison token = compare(stats({5, 9}, {17.0F, 17.0F}), live);
  EXPECT_EQ(token.predicted, -1);
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

TEST(TokenComparison, VerdictsHaveNames) {
  EXPECT_EQ(verdict_name(TokenVerdict::kMatch), "match");
  EXPECT_EQ(verdict_name(TokenVerdict::kTie), "tie");
  EXPECT_EQ(verdict_name(TokenVerdict::kNearTie), "near_tie");
  EXPECT_EQ(verdict_name(TokenVerdict::kHardFlip), "hard_flip");
}

}  // namespace
}  // namespace kvtool::analysis
