#include "kvtool/analysis/gate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace kvtool::analysis {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

GateRule at_most(std::string figure, double max) {
  return {.figure = std::move(figure), .min = std::nullopt, .max = max};
}

GateRule at_least(std::string figure, double min) {
  return {.figure = std::move(figure), .min = min, .max = std::nullopt};
}

Gate gate_of(std::vector<GateRule> rules) {
  return {.name = "test", .description = "", .flip_bounds = {}, .rules = std::move(rules)};
}

RuleResult judge(const GateRule& rule, const Figures& figures) {
  const GateResult result = evaluate(gate_of({rule}), figures);
  EXPECT_EQ(result.rules.size(), 1U);
  return result.rules.empty() ? RuleResult{} : result.rules.front();
}

TEST(Gate, BoundsAreInclusive) {
  EXPECT_TRUE(judge(at_most("inject.kl.p99", 0.5), {{"inject.kl.p99", 0.5}}).passed);
  EXPECT_FALSE(judge(at_most("inject.kl.p99", 0.5), {{"inject.kl.p99", 0.5000001}}).passed);
  EXPECT_TRUE(
      judge(at_least("inject.tokens.match_rate", 0.9), {{"inject.tokens.match_rate", 0.9}}).passed);
  EXPECT_FALSE(
      judge(at_least("inject.tokens.match_rate", 0.9), {{"inject.tokens.match_rate", 0.89}})
          .passed);
}

TEST(Gate, HoldsBothBoundsOfARange) {
  const GateRule rule{.figure = "forced.amplification", .min = 0.5, .max = 4.0};
  EXPECT_FALSE(judge(rule, {{"forced.amplification", 0.4}}).passed);
  EXPECT_TRUE(judge(rule, {{"forced.amplification", 1.0}}).passed);
  EXPECT_FALSE(judge(rule, {{"forced.amplification", 4.1}}).passed);
}

TEST(Gate, FailsARuleWhoseFigureIsMissing) {
  const RuleResult result = judge(at_most("inject.kl.p99", 0.5), {{"forced.kl.p99", 0.0}});
  EXPECT_FALSE(result.passed);
  EXPECT_FALSE(result.measured.has_value());
  EXPECT_EQ(result.figure, "inject.kl.p99");
  EXPECT_EQ(result.matched, 0U);
}

TEST(Gate, FailsAPatternThatMatchesNothing) {
  const RuleResult result = judge(at_most("*.kl.p99", 0.5), {{"inject.kl.max", 0.0}});
  EXPECT_FALSE(result.passed);
  EXPECT_FALSE(result.measured.has_value());
}

// Inject ran, and every generation ended with its first token.
const Figures kNoStep = {{"inject.tokens.compared", 0.0},
                         {"inject.tokens.uncompared", 0.0},
                         {"inject.kv.recorded_rows", 0.0},
                         {"prefill.tokens.compared", 1.0},
                         {"prefill.kv.recorded_rows", 9.0}};

TEST(Gate, SkipsARuleOfStepsThatDoNotExist) {
  for (const char* figure : {"inject.kl.p99", "inject.kv.key.differing_rate", "inj*.kl.p99",
                             "inject.tokens.match_rate"}) {
    const RuleResult result = judge(at_most(figure, 0.5), kNoStep);
    EXPECT_TRUE(result.passed) << figure;
    EXPECT_EQ(result.unjudged, "no step to judge") << figure;
    EXPECT_EQ(describe(result), std::string(figure) + ": not judged, no step to judge");
  }
}

TEST(Gate, SkipsNothingOfAStretchThatDidNotRunOrHasTokens) {
  EXPECT_FALSE(judge(at_most("forced.kl.p99", 0.5), kNoStep).passed);
  EXPECT_FALSE(judge(at_most("prefill.kl.p99", 0.5), kNoStep).passed);
  EXPECT_FALSE(judge(at_most("prefill.kv.key.differing_rate", 0.0), kNoStep).passed);
  EXPECT_FALSE(judge(at_most("*.kl.p99", 0.5), kNoStep).passed);
  EXPECT_FALSE(judge(at_least("inject.tokens.compared", 1.0), kNoStep).passed);
  Figures parted = kNoStep;
  parted["inject.tokens.uncompared"] = 3.0;
  EXPECT_FALSE(judge(at_most("inject.kl.p99", 0.5), parted).passed);
}

TEST(Gate, SkipsKvOfStepsThatTheRecordingsDoNotHold) {
  Figures figures = kNoStep;
  figures["inject.tokens.compared"] = 7.0;
  const GateRule rule = at_most("inject.kv.key.differing_rate", 0.0);
  EXPECT_EQ(judge(rule, figures).unjudged, "the recordings hold no K/V of steps");
  EXPECT_FALSE(judge(at_most("inject.kl.p99", 0.5), figures).passed);
  // Held, and yet not compared.
  figures["inject.kv.recorded_rows"] = 7.0;
  EXPECT_FALSE(judge(rule, figures).passed);
}

TEST(Gate, FailsNaNAndInfinityWhateverTheBound) {
  EXPECT_FALSE(judge(at_most("inject.kl.p99", 1e300), {{"inject.kl.p99", std::nan("")}}).passed);
  EXPECT_FALSE(judge(at_least("inject.kl.p99", 0.0), {{"inject.kl.p99", std::nan("")}}).passed);
  EXPECT_FALSE(judge(at_most("inject.kl.p99", 1e300), {{"inject.kl.p99", kInfinity}}).passed);
}

TEST(Gate, PatternReportsTheWorstOfItsFigures) {
  const RuleResult result =
      judge(at_most("*.tokens.hard_flips", 1.0), {{"forced.tokens.hard_flips", 5.0},
                                                  {"free.tokens.hard_flips", 3.0},
                                                  {"inject.tokens.hard_flips", 1.0}});
  EXPECT_FALSE(result.passed);
  EXPECT_EQ(result.figure, "forced.tokens.hard_flips");
  EXPECT_EQ(result.measured, 5.0);
  EXPECT_EQ(result.matched, 3U);
  EXPECT_EQ(result.failed, 2U);
  EXPECT_EQ(result.failures,
            (std::vector<std::string>{"forced.tokens.hard_flips", "free.tokens.hard_flips"}));
}

TEST(Gate, PassedPatternReportsTheFigureClosestToItsBound) {
  const RuleResult result =
      judge(at_least("*.logits.top1_agreement", 0.9),
            {{"forced.logits.top1_agreement", 0.95}, {"inject.logits.top1_agreement", 0.99}});
  EXPECT_TRUE(result.passed);
  EXPECT_EQ(result.figure, "forced.logits.top1_agreement");
}

TEST(Gate, ARuleOfItsOwnNameTakesAFigureOutOfAPattern) {
  const Gate gate = gate_of({at_most("*.kl.p99", 0.1), at_most("inject.kl.p99", 1.0)});
  const GateResult result = evaluate(gate, {{"inject.kl.p99", 0.5}, {"forced.kl.p99", 0.05}});
  EXPECT_TRUE(result.passed);
  ASSERT_EQ(result.rules.size(), 2U);
  EXPECT_EQ(result.rules[0].matched, 1U);
  EXPECT_EQ(result.rules[0].figure, "forced.kl.p99");
}

TEST(Gate, APatternLeftWithoutFiguresIsNeitherMissingNorShown) {
  const Gate gate = gate_of({at_most("*.kl.p99", 0.1), at_most("inject.kl.p99", 1.0)});
  const GateResult result = evaluate(gate, {{"inject.kl.p99", 0.5}});
  EXPECT_TRUE(result.passed);
  ASSERT_EQ(result.rules.size(), 1U);
  EXPECT_EQ(result.rules[0].figure, "inject.kl.p99");
}

Figures ties(double count, double compared) {
  return {{"inject.tokens.tie_rate", count / compared}, {"inject.tokens.compared", compared}};
}

// 2 % of 20, 50, 51, 100 and 1000 tokens are 0.4, 1, 1.02, 2 and 20.
TEST(Gate, TieBudgetIsRoundedUpToWholeTokens) {
  const GateRule rule = at_most("*.tokens.tie_rate", 0.02);
  for (const auto& [compared, allowed] :
       {std::pair(1.0, 1.0), std::pair(20.0, 1.0), std::pair(50.0, 1.0), std::pair(51.0, 2.0),
        std::pair(100.0, 2.0), std::pair(1000.0, 20.0), std::pair(1001.0, 21.0)}) {
    EXPECT_TRUE(judge(rule, ties(allowed, compared)).passed) << compared;
    EXPECT_FALSE(judge(rule, ties(allowed + 1, compared)).passed) << compared;
  }
  EXPECT_DOUBLE_EQ(*judge(rule, ties(1, 20)).rule.max, 0.05);
}

TEST(Gate, TieBudgetOfZeroAllowsNone) {
  EXPECT_TRUE(judge(at_most("inject.tokens.tie_rate", 0.0), ties(0, 20)).passed);
  EXPECT_FALSE(judge(at_most("inject.tokens.tie_rate", 0.0), ties(1, 20)).passed);
}

// 7 % of 100 is 7.000000000000001 in binary.
TEST(Gate, TieBudgetIsNotRoundedUpByBinaryFractions) {
  EXPECT_TRUE(judge(at_most("inject.tokens.tie_rate", 0.07), ties(7, 100)).passed);
  EXPECT_FALSE(judge(at_most("inject.tokens.tie_rate", 0.07), ties(8, 100)).passed);
}

TEST(Gate, PassesOnlyWhenEveryRulePasses) {
  const Gate gate = gate_of({at_most("inject.kl.p99", 0.1), at_most("inject.kl.max", 0.1)});
  EXPECT_TRUE(evaluate(gate, {{"inject.kl.p99", 0.0}, {"inject.kl.max", 0.1}}).passed);
  EXPECT_FALSE(evaluate(gate, {{"inject.kl.p99", 0.0}, {"inject.kl.max", 0.2}}).passed);
  EXPECT_EQ(evaluate(gate, {}).gate, "test");
}

TEST(Gate, StretchFailsWithAnyOfItsFiguresNotOnlyTheWorst) {
  const GateResult result =
      evaluate(gate_of({at_most("*.kl.p99", 0.1)}),
               {{"prefill.kl.p99", 0.0}, {"inject.kl.p99", 0.2}, {"forced.kl.p99", 0.9}});
  EXPECT_TRUE(result.stretch_passed("prefill"));
  EXPECT_FALSE(result.stretch_passed("inject"));
  EXPECT_FALSE(result.stretch_passed("forced"));
  EXPECT_TRUE(result.stretch_passed("free"));
}

TEST(Gate, MissingFigureCountsForTheStretchThatItsRuleNames) {
  const GateResult exact = evaluate(gate_of({at_most("inject.kl.p99", 0.1)}), {});
  EXPECT_FALSE(exact.stretch_passed("inject"));
  EXPECT_TRUE(exact.stretch_passed("forced"));
  const GateResult pattern = evaluate(gate_of({at_most("f*.kl.p99", 0.1)}), {});
  EXPECT_TRUE(pattern.stretch_passed("inject"));
  EXPECT_FALSE(pattern.stretch_passed("forced"));
  EXPECT_FALSE(pattern.stretch_passed("free"));
}

TEST(Gate, DescribesMeasuredAgainstAllowed) {
  EXPECT_EQ(describe(judge(at_most("inject.kl.p99", 0.002), {{"inject.kl.p99", 0.0021}})),
            "inject.kl.p99: measured 0.0021, allowed at most 0.002");
  EXPECT_EQ(describe(judge(at_least("inject.tokens.match_rate", 1.0),
                           {{"inject.tokens.match_rate", 0.75}})),
            "inject.tokens.match_rate: measured 0.75, allowed at least 1");
  EXPECT_EQ(describe(judge({.figure = "forced.amplification", .min = 0.5, .max = 4.0},
                           {{"forced.amplification", 3.0}})),
            "forced.amplification: measured 3, allowed 0.5 to 4");
  EXPECT_EQ(describe(judge({.figure = "inject.tokens.ties", .min = 2.0, .max = 2.0},
                           {{"inject.tokens.ties", 3.0}})),
            "inject.tokens.ties: measured 3, allowed exactly 2");
  EXPECT_EQ(describe(judge(at_most("inject.kl.max", 0.1), {{"inject.kl.max", kInfinity}})),
            "inject.kl.max: measured infinite, allowed at most 0.1");
}

TEST(Gate, DescribesAMissingFigure) {
  EXPECT_EQ(describe(judge(at_most("inject.kl.p99", 0.002), {})),
            "inject.kl.p99: not measured, allowed at most 0.002");
}

TEST(Gate, DescribesWhichPatternJudged) {
  EXPECT_EQ(describe(judge(at_most("*.tokens.hard_flips", 0.0),
                           {{"inject.tokens.hard_flips", 2.0}, {"prefill.tokens.hard_flips", 0}})),
            "inject.tokens.hard_flips: measured 2, allowed at most 0 "
            "(*.tokens.hard_flips: 1 of 2 figures fail)");
  EXPECT_EQ(
      describe(judge(at_most("*.tokens.hard_flips", 0.0), {{"inject.tokens.hard_flips", 0.0}})),
      "inject.tokens.hard_flips: measured 0, allowed at most 0 (*.tokens.hard_flips)");
}

TEST(Gate, DescriptionTellsAFailureFromItsBound) {
  EXPECT_EQ(describe(judge(at_most("inject.kl.p99", 0.01), {{"inject.kl.p99", 0.01000002}})),
            "inject.kl.p99: measured 0.01000002, allowed at most 0.01");
}

TEST(Gate, ModesAreInjectAndThoseThatRulesName) {
  using format::ReplayMode;
  Gate gate;
  EXPECT_EQ(modes_for(gate), std::vector{ReplayMode::kInject});
  gate.rules = {{"*.kl.p99", std::nullopt, 1.0}, {"free.kl.p99", std::nullopt, 1.0}};
  EXPECT_EQ(modes_for(gate), (std::vector{ReplayMode::kInject, ReplayMode::kFree}));
}

TEST(DefaultGate, JudgesHardFlipsAndNonFiniteValuesAlone) {
  Figures figures = {{"prefill.tokens.hard_flips", 0.0}, {"prefill.tokens.nonfinite", 0.0},
                     {"prefill.kv.key.nonfinite", 0.0},  {"inject.tokens.hard_flips", 0.0},
                     {"inject.tokens.nonfinite", 0.0},   {"inject.tokens.tie_rate", 1.0}};
  EXPECT_TRUE(evaluate(default_gate({}), figures).passed);
  for (const char* figure :
       {"prefill.tokens.hard_flips", "inject.tokens.nonfinite", "prefill.kv.key.nonfinite"}) {
    Figures broken = figures;
    broken[figure] = 1.0;
    EXPECT_FALSE(evaluate(default_gate({}), broken).passed) << figure;
  }
}

}  // namespace
}  // namespace kvtool::analysis
