#include "kvtool/analysis/logit_noise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "analysis/token_stats.h"

namespace kvtool::analysis {
namespace {

using format::StepStats;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::IsNan;

// ---- Winsorized root mean square -----------------------------------------------------

// The mean without -9 and 3 is 0; of the sizes 1 (six times), 3 and 9 the last counts as 3:
// (6 + 9 + 9) / 8 = 3.
TEST(WinsorizedRms, GivesTheHandComputedValue) {
  EXPECT_DOUBLE_EQ(winsorized_rms(std::vector{1.0, -1.0, 3.0, 1.0, -1.0, -9.0, 1.0, -1.0}),
                   std::sqrt(3.0));
}

// One outlier of every 32: of 64 values two, which count as the third, 3. The mean of what the
// two highest and the two lowest leave is 0.
TEST(WinsorizedRms, ReplacesOneValueOfThirtyTwo) {
  std::vector<double> values{100.0, -100.0, 2.0, -3.0};
  for (int i = 0; i < 30; ++i) values.insert(values.end(), {1.0, -1.0});
  EXPECT_DOUBLE_EQ(winsorized_rms(values), std::sqrt((60.0 + 4.0 + 3.0 * 9.0) / 64.0));
}

std::vector<double> gaussian_values(std::mt19937_64& random, std::size_t count) {
  std::normal_distribution<double> gaussian;
  std::vector<double> values(count);
  for (double& value : values) value = gaussian(random);
  return values;
}

TEST(WinsorizedRms, OutlierMovesItNoFurtherThanTheSecondLargestValue) {
  std::mt19937_64 random(1);
  for (const std::size_t count : {8U, 31U, 32U}) {
    std::vector<double> values = gaussian_values(random, count);
    values.back() = 10.0;
    const double at_ten = winsorized_rms(values);
    for (const double outlier : {20.0, 1e30, 1e308}) {
      values.back() = outlier;
      EXPECT_EQ(winsorized_rms(values), at_ten) << outlier;
    }
    values.pop_back();
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    EXPECT_LT(at_ten, *most - *least);
  }
}

// As in bfloat16, where most logits of two right kernels are the same.
TEST(WinsorizedRms, ManyZerosAreNotNoNoise) {
  std::vector<double> values(32, 0.0);
  values[3] = values[17] = 0.125;
  values[9] = values[30] = -0.125;
  // The mean is 0, the largest counts as the next one, which is as large.
  EXPECT_DOUBLE_EQ(winsorized_rms(values), std::sqrt(4.0 / 32.0) * 0.125);
  std::vector<double> single(32, 0.0);
  EXPECT_EQ(winsorized_rms(single), 0.0);
  single[5] = 0.125;
  EXPECT_EQ(winsorized_rms(single), 0.0) << "a single one is an outlier";
}

TEST(WinsorizedRms, CommonShiftChangesNothing) {
  const std::vector<double> values{1.0, -1.0, 3.0, 1.0, -1.0, -9.0, 1.0, -1.0};
  for (const double shift : {0.5, -3.0, 4096.0}) {
    std::vector<double> shifted = values;
    for (double& value : shifted) value += shift;
    EXPECT_DOUBLE_EQ(winsorized_rms(shifted), winsorized_rms(values)) << shift;
  }
  EXPECT_EQ(winsorized_rms(std::vector<double>(8, 7.0)), 0.0);
}

TEST(WinsorizedRms, TakesAtLeastEightFiniteValues) {
  std::vector<double> values{1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0};
  EXPECT_THAT(winsorized_rms(values), IsNan());
  values.insert(values.end(), {kNan, kInf, -kInf});
  EXPECT_THAT(winsorized_rms(values), IsNan());
  values.push_back(-1.0);
  EXPECT_DOUBLE_EQ(winsorized_rms(values), 1.0);
  EXPECT_THAT(winsorized_rms({}), IsNan());
}

// What is replaced takes off 11 % of a standard deviation with 16 values, 5 % with 32 and 4 % with
// 64 (from 20,000 rounds of another program).
TEST(WinsorizedRms, OfGaussianValuesIsTheirDeviation) {
  std::mt19937_64 random(2);
  for (const auto& [count, expected] :
       {std::pair(16U, 0.893), std::pair(32U, 0.948), std::pair(64U, 0.960)}) {
    constexpr int kRounds = 2000;
    double sum = 0.0;
    for (int i = 0; i < kRounds; ++i) sum += winsorized_rms(gaussian_values(random, count));
    EXPECT_NEAR(sum / kRounds, expected, 0.015) << count;
  }
}

// ---- Deltas --------------------------------------------------------------------------

TEST(LogitDeltas, AreOfWhatTheLiveSideHasGathered) {
  const StepStats reference = stats({5, 9, 2}, {17.0F, 16.0F, 15.0F});
  StepStats live = stats({9, 7, 5}, {90.0F, 80.0F, 70.0F});
  live.at_reference_top = {17.5F, 15.0F, 15.0F};
  EXPECT_THAT(logit_deltas(reference, live).top, ElementsAre(0.5, -1.0, 0.0));
}

TEST(LogitDeltas, AreLookedForInTheLiveTopKOfARecording) {
  const StepStats reference = stats({5, 9, 2}, {17.0F, 16.0F, 15.0F});
  StepStats live = stats({9, 7, 5}, {18.0F, 17.5F, 16.75F});
  EXPECT_THAT(logit_deltas(reference, live).top, ElementsAre(-0.25, 2.0, IsNan()));
  // Of other ids than the reference's: it says nothing.
  live.at_reference_top = {1.0F, 2.0F};
  EXPECT_THAT(logit_deltas(reference, live).top, ElementsAre(-0.25, 2.0, IsNan()));
  EXPECT_THAT(logit_deltas(reference, stats({}, {})).top, ElementsAre(IsNan(), IsNan(), IsNan()));
  EXPECT_THAT(logit_deltas(stats({}, {}), live).top, IsEmpty());
}

TEST(LogitDeltas, OfWhatIsNotFiniteAreUnknown) {
  const StepStats reference = stats({5, 9, 2, 3}, {17.0F, kInf, kNan, 14.0F});
  StepStats live = stats({}, {});
  live.at_reference_top = {kNan, kInf, 15.0F, 14.5F};
  EXPECT_THAT(logit_deltas(reference, live).top, ElementsAre(IsNan(), IsNan(), IsNan(), 0.5));
  const StepStats recorded = stats({2, 3, 9, 5}, {1.0F, 13.0F, 1.0F, -kInf});
  EXPECT_THAT(logit_deltas(reference, recorded).top, ElementsAre(IsNan(), IsNan(), IsNan(), -1.0));
}

TEST(LogitDeltas, OfTheSampleNeedSamplesOfTheSameSize) {
  StepStats reference = stats({5}, {17.0F});
  reference.sampled_logits = {1.0F, 2.0F, -3.0F};
  StepStats live = reference;
  live.sampled_logits = {1.5F, kNan, -4.0F};
  EXPECT_THAT(logit_deltas(reference, live).sample, ElementsAre(0.5, IsNan(), -1.0));
  live.sampled_logits.pop_back();
  EXPECT_THAT(logit_deltas(reference, live).sample, IsEmpty());
  live.sampled_logits.clear();
  EXPECT_THAT(logit_deltas(reference, live).sample, IsEmpty());
  EXPECT_THAT(logit_deltas(live, reference).sample, IsEmpty());
}

// ---- Noise of a token ----------------------------------------------------------------

TEST(LogitNoise, MeasuresBestLogitsSampleAndSpreadApart) {
  StepStats reference = stats({1}, {17.0F});
  reference.sampled_logits = {4.0F, 4.0F, 4.0F, 4.0F, 8.0F, 8.0F, 8.0F, 8.0F};
  const LogitDeltas deltas{.top = {1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0},
                           .sample = {0.5, -0.5, 0.5, -0.5, 0.5, -0.5, 0.5, -0.5}};
  const LogitNoise noise = measure_noise(reference, deltas);
  EXPECT_DOUBLE_EQ(noise.top, 1.0);
  EXPECT_DOUBLE_EQ(noise.sample, 0.5);
  EXPECT_DOUBLE_EQ(noise.deviation, 2.0);
  EXPECT_DOUBLE_EQ(noise.relative(), 0.5);
}

TEST(LogitNoise, RelativeNoiseOfNothingIsNothing) {
  EXPECT_THAT(LogitNoise().relative(), IsNan());
  EXPECT_EQ((LogitNoise{.top = 0.0, .sample = 0.0, .deviation = 0.0}.relative()), 0.0);
  EXPECT_EQ((LogitNoise{.top = 0.5, .sample = 0.0, .deviation = 0.0}.relative()), kInf);
  EXPECT_THAT((LogitNoise{.top = 0.0, .sample = 0.0, .deviation = kNan}.relative()), IsNan());
}

TEST(LogitNoise, IsShownByTheSameSampleAndATopKOfEightOnBothSides) {
  const auto shows = [](HeldLogits reference, HeldLogits live) {
    EXPECT_EQ(show_noise(reference, live), show_noise(live, reference));
    return show_noise(reference, live);
  };
  EXPECT_TRUE(shows({.top_k = 8, .sample = 8}, {.top_k = 8, .sample = 8}));
  EXPECT_TRUE(shows({.top_k = 32, .sample = 64}, {.top_k = 8, .sample = 64}));
  EXPECT_FALSE(shows({.top_k = 32, .sample = 64}, {.top_k = 7, .sample = 64}));
  EXPECT_FALSE(shows({.top_k = 32, .sample = 64}, {.top_k = 32, .sample = 32}));
  EXPECT_FALSE(shows({.top_k = 32, .sample = 7}, {.top_k = 32, .sample = 7}));
  EXPECT_FALSE(shows({.top_k = 32, .sample = 0}, {.top_k = 32, .sample = 0}));
}

TEST(LogitNoise, ARecordingHoldsWhatItsHeaderSays) {
  format::RecordingHeader header;
  header.top_k = 9;
  header.logits_sample = 70;
  EXPECT_EQ(held_logits(header).top_k, 9U);
  EXPECT_EQ(held_logits(header).sample, 70U);
}

}  // namespace
}  // namespace kvtool::analysis
