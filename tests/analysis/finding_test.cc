#include <gtest/gtest.h>

#include "kvtool/analysis/gate.h"
#include "kvtool/base/setting.h"

namespace kvtool::analysis {
namespace {

using format::ReplayMode;

RunSummary run_of(const std::vector<ReplayMode>& modes) {
  RunSummary run;
  for (const ReplayMode mode : modes) {
    ModeSummary summary;
    summary.mode = mode;
    summary.steps.tokens.compared = 5;
    summary.steps.kv.recorded_rows = 5;
    run.modes.push_back(std::move(summary));
  }
  return run;
}

// Of a gate that allows no hard flip, over stretches with and without one.
GateResult result_of(const std::map<std::string, bool>& flips) {
  Gate gate;
  gate.rules.push_back({.figure = "*.tokens.hard_flips", .min = std::nullopt, .max = 0.0});
  Figures figures;
  for (const auto& [stretch, flipped] : flips) {
    figures[stretch + ".tokens.hard_flips"] = flipped ? 1.0 : 0.0;
  }
  return evaluate(gate, figures);
}

const RunSummary kAll = run_of({ReplayMode::kInject, ReplayMode::kForced, ReplayMode::kFree});

struct Pattern {
  std::map<std::string, bool> flips;
  Finding finding;
};

class FindingOfPattern : public testing::TestWithParam<Pattern> {};

TEST_P(FindingOfPattern, NamesTheFirstStretchThatFails) {
  EXPECT_EQ(find_cause(kAll, result_of(GetParam().flips)), GetParam().finding);
}

INSTANTIATE_TEST_SUITE_P(
    Patterns, FindingOfPattern,
    testing::Values(
        Pattern{{{"prefill", false}, {"inject", false}, {"forced", false}, {"free", false}},
                Finding::kReproducible},
        Pattern{{{"prefill", true}, {"inject", false}, {"forced", true}, {"free", true}},
                Finding::kPrefill},
        Pattern{{{"prefill", true}, {"inject", true}, {"forced", true}, {"free", true}},
                Finding::kPrefill},
        Pattern{{{"prefill", false}, {"inject", true}, {"forced", true}, {"free", true}},
                Finding::kCompute},
        Pattern{{{"prefill", false}, {"inject", true}, {"forced", false}, {"free", false}},
                Finding::kCompute},
        Pattern{{{"prefill", false}, {"inject", false}, {"forced", true}, {"free", false}},
                Finding::kCache},
        Pattern{{{"prefill", false}, {"inject", false}, {"forced", false}, {"free", true}},
                Finding::kFeedback}));

TEST(FindCause, IsOpenWhenInjectDidNotRun) {
  const auto result = result_of({{"prefill", false}, {"forced", true}});
  EXPECT_EQ(find_cause(run_of({ReplayMode::kForced}), result), Finding::kUndetermined);
}

TEST(FindCause, IsOpenWhenFreeFailsWithoutForced) {
  const auto result = result_of({{"prefill", false}, {"inject", false}, {"free", true}});
  EXPECT_EQ(find_cause(run_of({ReplayMode::kInject, ReplayMode::kFree}), result),
            Finding::kUndetermined);
}

TEST(FindCause, AmplificationBelongsToTheCache) {
  Gate gate;
  gate.rules.push_back({.figure = "forced.amplification", .min = std::nullopt, .max = 10.0});
  EXPECT_EQ(find_cause(kAll, evaluate(gate, {{"forced.amplification", 11.0}})), Finding::kCache);
}

// A figure that nobody measured does not accuse a device.
TEST(FindCause, MissingFigureIsNoCause) {
  Gate gate;
  gate.rules.push_back({.figure = "inject.kl.p99", .min = std::nullopt, .max = 1.0});
  const GateResult result = evaluate(gate, {});
  EXPECT_EQ(find_cause(kAll, result), Finding::kUndetermined);
  EXPECT_NE(describe(Finding::kUndetermined, kAll).find("did not measure"), std::string::npos);
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(DescribeFinding, SaysWhatRan) {
  EXPECT_TRUE(holds(describe(Finding::kReproducible, kAll),
                    "every figure of the prefill, inject, forced and free keeps"));
}

TEST(DescribeFinding, SaysThatThereWasNoStepToJudge) {
  RunSummary run = kAll;
  for (ModeSummary& mode : run.modes) mode.steps.tokens.compared = 0;
  EXPECT_TRUE(holds(describe(Finding::kReproducible, run), "no step to judge"));
  run.modes.back().steps.tokens.uncompared = 1;
  EXPECT_FALSE(holds(describe(Finding::kReproducible, run), "no step to judge"));
}

TEST(DescribeFinding, SaysThatNoKvOfStepsWasJudged) {
  RunSummary run = kAll;
  for (ModeSummary& mode : run.modes) mode.steps.kv.recorded_rows = 0;
  EXPECT_TRUE(holds(describe(Finding::kReproducible, run), "only tokens and logits were judged"));
  EXPECT_FALSE(holds(describe(Finding::kReproducible, kAll), "only tokens and logits"));
}

TEST(DescribeFinding, SuggestsTheModesThatWouldTellMore) {
  EXPECT_TRUE(holds(describe(Finding::kReproducible, run_of({ReplayMode::kInject})),
                    "add " + setting("mode") + " inject,forced,free"));
  EXPECT_TRUE(holds(describe(Finding::kUndetermined, run_of({ReplayMode::kForced})),
                    setting("mode") + " inject,forced"));
  EXPECT_TRUE(
      holds(describe(Finding::kUndetermined, run_of({ReplayMode::kInject, ReplayMode::kFree})),
            "Add " + setting("mode") + " inject,forced,free"));
}

TEST(DescribeFinding, GivesTheAmplification) {
  RunSummary run = kAll;
  EXPECT_FALSE(holds(describe(Finding::kCache, run), "amplification"));
  run.amplification = 12.345;
  EXPECT_TRUE(holds(describe(Finding::kCache, run), "moves 12.3 times as far"));
  EXPECT_TRUE(holds(describe(Finding::kFeedback, run), "12.3"));
  EXPECT_TRUE(holds(describe(Finding::kReproducible, run), "12.3"));
}

TEST(DescribeFinding, SaysWhereTheErrorBegins) {
  RunSummary run = kAll;
  Departure departure;
  departure.kind = KvKind::kValue;
  departure.layer = 7;
  departure.position = 3;
  run.modes[0].steps.kv.departure = departure;
  run.modes[0].steps.kv.departure_input = {.batch_size = 4, .input_index = 2};
  run.modes[0].steps.kv.departure_first_position = 20;
  EXPECT_TRUE(holds(describe(Finding::kCompute, run),
                    "begins in layer 7, value, position 23 of batch4_input2."));
  EXPECT_FALSE(holds(describe(Finding::kCache, run), "begins in layer"));
  run.modes[0].steps.kv.departure->whole_layer = true;
  EXPECT_TRUE(
      holds(describe(Finding::kCompute, run), "begins in layer 7, value of batch4_input2."));
}

TEST(DescribeFinding, EveryFindingHasANameAndAText) {
  for (const Finding finding : {Finding::kReproducible, Finding::kPrefill, Finding::kCompute,
                                Finding::kCache, Finding::kFeedback, Finding::kUndetermined}) {
    EXPECT_FALSE(finding_name(finding).empty());
    EXPECT_FALSE(describe(finding, kAll).empty());
  }
  EXPECT_EQ(finding_name(Finding::kCache), "cache");
}

// A row of layer 2 of step K/V that stands out; layer 1 has a mixture of experts.
RunSummary run_with_departure() {
  RunSummary run = kAll;
  Departure departure;
  departure.layer = 2;
  departure.position = 3;
  departure.figure = "relative_l2";
  run.modes[1].steps.kv.departure = departure;
  return run;
}

const std::vector<bool> kRouted = {false, true, false};

TEST(DescribeRouted, ExplainsARowThatARouterMadeAnotherOne) {
  const std::string text = describe_routed(run_with_departure(), kRouted);
  EXPECT_EQ(text,
            " Layer 1 is a mixture of experts: where its router chooses other experts for a token, "
            "which rounding alone can do, the rows of layer 2 and all later ones stand out at that "
            "position.");
  RunSummary prefill = run_with_departure();
  std::swap(prefill.prefill.kv.departure, prefill.modes[1].steps.kv.departure);
  EXPECT_EQ(describe_routed(prefill, kRouted), text);
}

TEST(DescribeRouted, SaysNothingOfWhatNoRouterExplains) {
  const auto text = [](const auto& change) {
    RunSummary run = run_with_departure();
    change(*run.modes[1].steps.kv.departure);
    return describe_routed(run, kRouted);
  };
  EXPECT_EQ(describe_routed(kAll, kRouted), "");
  EXPECT_EQ(describe_routed(run_with_departure(), {}), "");
  EXPECT_EQ(describe_routed(run_with_departure(), {true}), "") << "nothing is known of layer 1";
  EXPECT_EQ(describe_routed(run_with_departure(), {true, false, true}), "");
  EXPECT_EQ(text([](Departure& departure) { departure.whole_layer = true; }), "");
  EXPECT_EQ(text([](Departure& departure) { departure.figure = "scale_error"; }), "");
  EXPECT_EQ(text([](Departure& departure) { departure.figure = "nonfinite"; }), "");
  EXPECT_EQ(text([](Departure& departure) { departure.layer = 1; }), "");
  EXPECT_EQ(text([](Departure& departure) { departure.layer = 0; }), "")
      << "the embedding has no router";
  EXPECT_EQ(text([](Departure& departure) { departure.layer = 9; }), "");
}

TEST(DescribeRouted, LooksForTheFirstStretchThatItExplains) {
  RunSummary run = run_with_departure();
  run.prefill.kv.departure = run.modes[1].steps.kv.departure;
  run.prefill.kv.departure->whole_layer = true;
  EXPECT_NE(describe_routed(run, kRouted), "");
}

}  // namespace
}  // namespace kvtool::analysis
