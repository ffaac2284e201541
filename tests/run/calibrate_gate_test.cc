#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "kvtool/run/calibration.h"
#include "support/error_of.h"

namespace kvtool::run {
namespace {

using nlohmann::json;

CalibrationOutcome outcome(const std::string& name, analysis::Figures figures,
                           double gap_ulps = 0.0) {
  CalibrationOutcome result;
  result.run.name = name;
  result.run.figures = std::move(figures);
  result.largest_gap_ulps = gap_ulps;
  return result;
}

const CalibratedRule& rule_of(const CalibratedGate& gate, const std::string& figure) {
  const auto found = std::find_if(gate.rules.begin(), gate.rules.end(),
                                  [&](const auto& rule) { return rule.rule.figure == figure; });
  if (found == gate.rules.end()) throw std::runtime_error("no rule " + figure);
  return *found;
}

TEST(CalibrateGate, AllowsTheWorstOfAllRunsTimesTheFactor) {
  const CalibratedGate gate = calibrate_gate(
      {outcome("a", {{"inject.kl.p99", 0.001}}), outcome("b", {{"inject.kl.p99", 0.004}}),
       outcome("c", {{"inject.kl.p99", 0.002}})},
      2.0);
  const CalibratedRule& rule = rule_of(gate, "inject.kl.p99");
  EXPECT_DOUBLE_EQ(*rule.rule.max, 0.008);
  EXPECT_FALSE(rule.rule.min);
  EXPECT_EQ(rule.noise, 0.004);
  EXPECT_EQ(rule.run, "b");
}

// 0.99 is 0.01 below 1; three times that are 0.03... and 2 % are the least.
TEST(CalibrateGate, LimitsWhatShouldBeHighFromBelow) {
  const CalibratedGate gate =
      calibrate_gate({outcome("a", {{"inject.logits.top5_agreement", 1.0}}),
                      outcome("b", {{"inject.logits.top5_agreement", 0.99}})},
                     3.0);
  const CalibratedRule& rule = rule_of(gate, "inject.logits.top5_agreement");
  EXPECT_NEAR(*rule.rule.min, 0.97, 1e-4);
  EXPECT_LE(*rule.rule.min, 0.97);
  EXPECT_FALSE(rule.rule.max);
  EXPECT_EQ(rule.run, "b");
}

TEST(CalibrateGate, RoundsOutwardToThreeDigits) {
  const auto bound = [](double noise) {
    return *rule_of(calibrate_gate({outcome("a", {{"inject.kl.p99", noise}})}, 1.0),
                    "inject.kl.p99")
                .rule.max;
  };
  EXPECT_DOUBLE_EQ(bound(0.0012341), 0.00124);
  EXPECT_DOUBLE_EQ(bound(0.00123), 0.00123);
  EXPECT_DOUBLE_EQ(bound(0.9999), 1.0);
  EXPECT_DOUBLE_EQ(bound(123.4), 124.0);
  for (double noise = 1e-7; noise < 10.0; noise *= 1.37) EXPECT_GE(bound(noise), noise);
}

TEST(CalibrateGate, NoNoiseLeavesTheLeastAllowance) {
  const CalibratedGate gate = calibrate_gate(
      {outcome("a", {{"inject.kl.p99", 0.0}, {"inject.tokens.tie_rate", 0.0}})}, 2.0);
  EXPECT_DOUBLE_EQ(*rule_of(gate, "inject.kl.p99").rule.max, 1e-9);
  EXPECT_DOUBLE_EQ(*rule_of(gate, "inject.tokens.tie_rate").rule.max, 0.02);
  ASSERT_EQ(gate.notes.size(), 1U);
  EXPECT_NE(gate.notes[0].find("no variation changed a single bit"), std::string::npos);
}

// A budget of ties has room for one anyway (docs/gates.md); two are a rate.
TEST(CalibrateGate, SingleTieIsNoRate) {
  const auto bound = [](double ties, double compared) {
    const CalibratedGate gate =
        calibrate_gate({outcome("a", {{"prefill.tokens.tie_rate", ties / compared},
                                      {"prefill.tokens.compared", compared}})},
                       2.0);
    return *rule_of(gate, "prefill.tokens.tie_rate").rule.max;
  };
  EXPECT_DOUBLE_EQ(bound(1, 4), 0.02);
  EXPECT_DOUBLE_EQ(bound(2, 4), 1.0);
  EXPECT_DOUBLE_EQ(bound(12, 1000), 0.024);
}

// A rule of a figure that is sometimes missing would fail whenever it is.
TEST(CalibrateGate, LeavesOutWhatARunDidNotMeasure) {
  const CalibratedGate gate =
      calibrate_gate({outcome("a", {{"inject.kl.p99", 0.1}}),
                      outcome("b", {{"inject.kl.p99", 0.1}, {"forced.amplification", 3.0}})},
                     2.0);
  ASSERT_EQ(gate.rules.size(), 1U);
  EXPECT_EQ(gate.rules[0].rule.figure, "inject.kl.p99");
}

TEST(CalibrateGate, InfiniteNoiseHasNoBound) {
  const CalibratedGate gate = calibrate_gate(
      {outcome("a",
               {{"inject.kv.key.layer_max.relative_l2", std::numeric_limits<double>::infinity()},
                {"inject.kl.p99", 0.1}})},
      2.0);
  EXPECT_EQ(gate.rules.size(), 1U);
  ASSERT_EQ(gate.notes.size(), 1U);
}

TEST(CalibrateGate, NearTiesReachAsFarAsTheFlipsThatWereSeen) {
  EXPECT_EQ(
      calibrate_gate({outcome("a", {}, 1.0), outcome("b", {}, 0.0)}, 2.0).flip_bounds.near_tie_ulps,
      2.0);
  EXPECT_EQ(
      calibrate_gate({outcome("a", {}, 2.5), outcome("b", {}, 4.0)}, 2.0).flip_bounds.near_tie_ulps,
      4.0);
}

// Of a run whose recordings show noise.
CalibrationOutcome noisy_outcome(const std::string& name, analysis::Figures figures,
                                 double gap_noise = 0.0) {
  figures.emplace("inject.logits.noise", 0.05);
  CalibrationOutcome result = outcome(name, std::move(figures), 7.0);
  result.largest_gap_noise = gap_noise;
  return result;
}

const analysis::Figures kNoisyFigures = {
    {"inject.logits.relative_noise", 0.02}, {"prefill.logits.relative_noise", 0.0},
    {"inject.kl_estimate.median", 0.001},   {"inject.kl_estimate.p99", 0.004},
    {"inject.kl_estimate.max", 0.006},      {"inject.kl.p99", 0.003},
    {"inject.tokens.tie_rate", 0.05},       {"inject.tokens.flips_p", 0.4},
    {"inject.logits.top5_agreement", 1.0}};

TEST(CalibrateGate, WithNoiseLimitsEstimateAndNoiseAndNoTies) {
  const CalibratedGate gate =
      calibrate_gate({noisy_outcome("a", kNoisyFigures), noisy_outcome("b", kNoisyFigures)}, 2.0);
  EXPECT_TRUE(gate.measures_noise);
  std::map<std::string, double> bounds;
  for (const CalibratedRule& rule : gate.rules) {
    bounds.emplace(rule.rule.figure, rule.rule.max.value_or(-1.0));
  }
  EXPECT_EQ(bounds, (std::map<std::string, double>{{"inject.kl_estimate.median", 0.002},
                                                   {"inject.kl_estimate.p99", 0.008},
                                                   {"inject.kl_estimate.max", 0.012},
                                                   {"inject.logits.relative_noise", 0.04},
                                                   {"prefill.logits.relative_noise", 1e-9},
                                                   {"inject.logits.top5_agreement", -1.0}}));
}

TEST(CalibrateGate, OneRunWithoutNoiseIsJudgedByUlpAndSoAreAll) {
  const CalibratedGate gate =
      calibrate_gate({noisy_outcome("a", kNoisyFigures), outcome("b", kNoisyFigures)}, 2.0);
  EXPECT_FALSE(gate.measures_noise);
  EXPECT_DOUBLE_EQ(*rule_of(gate, "inject.kl.p99").rule.max, 0.006);
  EXPECT_DOUBLE_EQ(*rule_of(gate, "inject.tokens.tie_rate").rule.max, 0.1);
  EXPECT_THROW((void)rule_of(gate, "inject.kl_estimate.p99"), std::runtime_error);
  EXPECT_THROW((void)rule_of(gate, "inject.logits.relative_noise"), std::runtime_error);
}

TEST(CalibrateGate, NoiseExplainsAsMuchAsTheFlipsThatWereSeen) {
  const auto calibrated = [](double gap_noise) {
    return calibrate_gate(
        {noisy_outcome("a", kNoisyFigures, gap_noise), noisy_outcome("b", kNoisyFigures)}, 2.0);
  };
  EXPECT_EQ(calibrated(0.0).flip_bounds.noise_z, 4.0);
  EXPECT_EQ(calibrated(3.9).flip_bounds.noise_z, 4.0);
  EXPECT_THAT(calibrated(3.9).notes, testing::IsEmpty());
  EXPECT_EQ(calibrated(4.2).flip_bounds.noise_z, 5.0);
  EXPECT_THAT(calibrated(4.2).notes,
              testing::ElementsAre("mismatches reach 5.0 standard deviations of the noise: a token "
                                   "flipped over that gap"));
}

// The other one would mislead.
TEST(CalibrateGate, FileNamesTheBoundThatCounts) {
  const json by_noise = gate_document(
      "n", "d", calibrate_gate({noisy_outcome("a", kNoisyFigures, 4.2)}, 2.0), json::object());
  EXPECT_EQ(by_noise["noise_z"], 5.0);
  EXPECT_FALSE(by_noise.contains("near_tie_ulps"));
  EXPECT_FALSE(by_noise["rules"].contains("inject.tokens.tie_rate"));
  const json by_ulp = gate_document(
      "n", "d", calibrate_gate({outcome("a", kNoisyFigures, 3.0)}, 2.0), json::object());
  EXPECT_EQ(by_ulp["near_tie_ulps"], 3.0);
  EXPECT_FALSE(by_ulp.contains("noise_z"));
  for (const json& document : {by_noise, by_ulp}) {
    EXPECT_NO_THROW((void)analysis::GateSpec::parse(document, "gate.json"));
  }
}

TEST(CalibrateGate, RefusesWhatIsNoNoise) {
  for (const char* figure :
       {"forced.tokens.hard_flips", "inject.tokens.nonfinite", "prefill.kv.key.nonfinite"}) {
    const Error error =
        error_of([&] { (void)calibrate_gate({outcome("avx2", {{figure, 1.0}})}, 2.0); });
    EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
    EXPECT_NE(std::string(error.what()).find(figure), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("avx2"), std::string::npos);
  }
}

}  // namespace
}  // namespace kvtool::run
