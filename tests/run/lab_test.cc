// What a lab runs, and what it says of what it measured; no engine.
#include "kvtool/run/lab.h"

#include <gmock/gmock.h>

#include <cmath>
#include <functional>

#include "kvtool/base/error.h"
#include "kvtool/cache/cache_plan.h"
#include "run/lab/breakeven.h"
#include "run/lab/lab_checks.h"
#include "run/lab/lab_pairs.h"
#include "run/lab/lab_plan.h"
#include "run/lab/lab_row.h"
#include "run/lab/sensitivity.h"
#include "support/error_of.h"

namespace kvtool::run {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// ---- Budgets -----------------------------------------------------------------------

TEST(LabBudget, IsAShareWithOrWithoutItsSign) {
  EXPECT_EQ(read_budget("12.5").to_string(), "12.5%");
  EXPECT_EQ(read_budget("100%").to_string(), "100%");
}

TEST(LabBudget, RefusesWhatIsNoShare) {
  for (const char* text : {"0", "0%", "100.5", "101%", "", "%", "x", "25%%"}) {
    const Error error = error_of([&] { (void)read_budget(text); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage) << text;
    EXPECT_THAT(error.what(), HasSubstr("expected a share of an input above 0%")) << text;
  }
}

// ---- Plan --------------------------------------------------------------------------

LabRequest asking(std::vector<std::string> policies, std::vector<std::string> budgets = {}) {
  LabRequest request;
  request.policies = std::move(policies);
  request.budgets = std::move(budgets);
  return request;
}

std::vector<std::string> planned(const LabRequest& request,
                                 std::vector<std::uint64_t> lengths = {1024}) {
  std::vector<std::string> rows;
  for (const PlannedLabRow& row :
       plan_lab_rows(read_lab_plan(request), request.controls, lengths)) {
    rows.push_back(std::string(lab_role_name(row.role)) + " " + row.given +
                   (row.budget.empty() ? "" : " " + row.budget) + ": " + row.spec.to_string());
  }
  return rows;
}

std::string lab_refusal(const LabRequest& request, std::vector<std::uint64_t> lengths = {1024}) {
  const Error error = error_of([&] { (void)planned(request, lengths); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  return error.what();
}

// A window shows its share of 1024 positions.
TEST(LabPlan, RunsEachPolicyAtEachBudgetWithItsControls) {
  EXPECT_THAT(
      planned(asking({"int8", "quest"}, {"12.5%", "50"})),
      ElementsAre(
          "policy int8: int8",
          "policy quest 50%: quest:page=16,budget=50%,sinks=1,recent=2,dense=2,codec=none",
          "control mass 50%: mass:page=16,budget=50%,sinks=1,recent=2,dense=2,codec=none",
          "control window 50%: window:sinks=4,recent=508,codec=none",
          "control random 50%: random:page=16,budget=50%,sinks=1,recent=2,dense=2,"
          "codec=none",
          "policy quest 12.5%: quest:page=16,budget=12.5%,sinks=1,recent=2,dense=2,codec=none",
          "control mass 12.5%: mass:page=16,budget=12.5%,sinks=1,recent=2,dense=2,codec=none",
          "control window 12.5%: window:sinks=4,recent=124,codec=none",
          "control random 12.5%: random:page=16,budget=12.5%,sinks=1,recent=2,dense=2,"
          "codec=none"));
}

TEST(LabPlan, APolicyWithABudgetOfItsOwnRunsAsItIs) {
  EXPECT_THAT(
      planned(asking({"quest:budget=16", "window:recent=28"})),
      ElementsAre("policy quest:budget=16: quest:page=16,budget=16,sinks=1,recent=2,"
                  "dense=2,codec=none",
                  "policy window:recent=28: window:sinks=4,recent=28,codec=none",
                  "control mass: mass:page=16,budget=16,sinks=1,recent=2,dense=2,codec=none",
                  "control window: window:sinks=4,recent=252,codec=none",
                  "control random: random:page=16,budget=16,sinks=1,recent=2,dense=2,"
                  "codec=none",
                  "control mass: mass:page=16,budget=3,sinks=1,recent=2,dense=2,codec=none",
                  "control random: random:page=16,budget=3,sinks=1,recent=2,dense=2,"
                  "codec=none"));
}

TEST(LabPlan, ControlsChooseFromTheSamePagesAndAreNotRunTwice) {
  EXPECT_THAT(
      planned(asking({"mass", "paged:page=32,select=quest,codec=int8,sinks=2"}, {"50"})),
      ElementsAre("policy mass 50%: mass:page=16,budget=50%,sinks=1,recent=2,dense=2,codec=none",
                  HasSubstr("policy paged:page=32,select=quest,codec=int8,sinks=2 50%: paged:"),
                  "control window 50%: window:sinks=4,recent=508,codec=none",
                  HasSubstr("control random 50%: random:page=16"),
                  "control mass:page=32,sinks=2,codec=int8 50%: "
                  "mass:page=32,budget=50%,sinks=2,recent=2,dense=2,codec=int8",
                  "control window:codec=int8 50%: window:sinks=4,recent=508,codec=int8",
                  "control random:page=32,sinks=2,codec=int8 50%: "
                  "random:page=32,budget=50%,sinks=2,recent=2,dense=2,codec=int8"));
}

TEST(LabPlan, AWindowWithOtherPositionsStandsBesideTheControl) {
  EXPECT_THAT(planned(asking({"window:positions=cache"}, {"50"})),
              ElementsAre(HasSubstr("policy window:positions=cache 50%: window:sinks=4,recent=508,"
                                    "positions=cache"),
                          HasSubstr("control mass 50%"),
                          "control window 50%: window:sinks=4,recent=508,codec=none",
                          HasSubstr("control random 50%")));
}

// Every choice of everything is the same.
TEST(LabPlan, AllOfAnInputNeedsNoControls) {
  EXPECT_THAT(planned(asking({"quest", "window"}, {"100"})),
              ElementsAre(HasSubstr("policy quest 100%: quest:page=16,budget=100%"),
                          "policy window 100%: window:sinks=4,recent=1020,codec=none"));
}

TEST(LabPlan, DefaultsToHalfAndAQuarterAndRunsABudgetOnce) {
  LabRequest request = asking({"quest"});
  request.controls = false;
  EXPECT_THAT(planned(request), ElementsAre(HasSubstr("budget=50%"), HasSubstr("budget=25%")));
  request.budgets = {"25", "25%", "25.0"};
  EXPECT_THAT(planned(request), ElementsAre(HasSubstr("budget=25%")));
}

TEST(LabPlan, RefusesTypicalMistakes) {
  EXPECT_THAT(lab_refusal(asking({})), HasSubstr("no policy to compare"));
  EXPECT_THAT(lab_refusal(asking({"int8", "quset"})), HasSubstr("policy quset: "));
  EXPECT_THAT(lab_refusal(asking({"int8", "quset"})), HasSubstr("quest"));
  EXPECT_THAT(lab_refusal(asking({"int8", "int8"})), HasSubstr("policy int8 is given twice"));
  EXPECT_THAT(lab_refusal(asking({"quest", "quest:page=16"}, {"50"})),
              HasSubstr("policy quest:page=16 is the same as quest"));
  EXPECT_THAT(lab_refusal(asking({"int8", "quest:budget=4"}, {"50"})),
              HasSubstr("int8, quest:budget=4 are none: leave budget out"));
  // 4 pages, of which 3 are seen in any case.
  EXPECT_THAT(lab_refusal(asking({"quest"}, {"25"}), {64}),
              HasSubstr("budget 25% of quest is too small: policy quest:page=16,budget=25%"));
  EXPECT_THAT(lab_refusal(asking({"window"}, {"1"}), {64}),
              HasSubstr("4 sinks are seen in any case"));
}

// A budget of pages is of the longest input; a shorter batch must hold what is always seen, too.
TEST(LabPlan, AWindowShowsAShareOfTheLongestAndBudgetsAreCheckedOfEachBatch) {
  LabRequest request = asking({"window"}, {"12.5"});
  request.controls = false;
  EXPECT_THAT(planned(request, {512, 1024}), ElementsAre(HasSubstr("recent=124,")));
  request.policies = {"quest"};
  request.budgets = {"10%"};
  EXPECT_THAT(lab_refusal(request, {64, 1024}), HasSubstr("budget 10% of quest is too small"));
}

// ---- Checks and regret -------------------------------------------------------------

LabRow measured(LabRole role, const std::string& given, const std::string& budget,
                std::uint64_t matches, double kl) {
  LabRow row;
  row.role = role;
  row.given = given;
  row.budget = budget;
  row.name = given + " " + budget;
  row.spec = role == LabRole::kFull ? "contiguous" : given;
  row.frame = role == LabRole::kFull ? "" : "pages " + budget;
  row.quality = lab_quality({{"forced.tokens.compared", 100.0},
                             {"forced.tokens.matches", static_cast<double>(matches)},
                             {"forced.tokens.match_rate", static_cast<double>(matches) / 100.0},
                             {"forced.kl_estimate.mean", kl}},
                            format::ReplayMode::kForced);
  return row;
}

std::vector<LabRow> sound_rows() {
  return {measured(LabRole::kFull, "full", "", 100, 0.0),
          measured(LabRole::kPolicy, "quest", "50%", 97, 0.02),
          measured(LabRole::kControl, "mass", "50%", 99, 0.01),
          measured(LabRole::kControl, "random", "50%", 80, 0.3),
          measured(LabRole::kPolicy, "quest", "25%", 95, 0.05)};
}

std::vector<std::string> failed(const std::vector<LabRow>& rows) {
  std::vector<std::string> names;
  for (const LabCheck& check : lab_checks(rows)) {
    if (!check.passed) names.push_back(check.name + ": " + check.better + " " + check.worse);
  }
  return names;
}

TEST(LabChecks, HoldOfSoundRows) {
  EXPECT_EQ(lab_checks(sound_rows()).size(), 4U + 1U + 1U);
  EXPECT_THAT(failed(sound_rows()), ElementsAre());
}

TEST(LabChecks, FailWhereTheWholeIntervalIsBelow) {
  std::vector<LabRow> rows = sound_rows();
  rows[1] = measured(LabRole::kPolicy, "quest", "50%", 60, 0.5);
  EXPECT_THAT(failed(rows), ElementsAre("policy >= random: quest 50% random 50%",
                                        "larger budget >= smaller: quest 50% quest 25%"));
  // 3 of 100 less is within the intervals.
  rows[1] = measured(LabRole::kPolicy, "quest", "50%", 92, 0.5);
  EXPECT_THAT(failed(rows), ElementsAre());
  rows[0] = measured(LabRole::kFull, "full", "", 50, 0.0);
  EXPECT_EQ(failed(rows).size(), 4U);
}

TEST(LabChecks, LeaveOutWhatDidNotActOrRun) {
  std::vector<LabRow> rows = sound_rows();
  rows[1] = measured(LabRole::kPolicy, "quest", "50%", 10, 0.5);
  rows[1].idle = "every step saw all keys";
  EXPECT_THAT(failed(rows), ElementsAre());
  rows[1].idle.clear();
  rows[1].missing = "no memory";
  EXPECT_THAT(failed(rows), ElementsAre());
}

TEST(LabRegret, IsToMassInTheSameFrame) {
  std::vector<LabRow> rows = sound_rows();
  set_regrets(rows);
  EXPECT_DOUBLE_EQ(*rows[1].regret_ratio, 2.0);
  EXPECT_DOUBLE_EQ(*rows[1].regret_difference, 0.01);
  EXPECT_DOUBLE_EQ(*rows[3].regret_ratio, 30.0);
  EXPECT_FALSE(rows[2].regret_ratio) << "of mass itself";
  EXPECT_FALSE(rows[4].regret_ratio) << "no mass at 25%";
  rows[2].quality.kl_mean = 0.0;
  rows[1].regret_ratio.reset();
  set_regrets(rows);
  EXPECT_FALSE(rows[1].regret_ratio);
  EXPECT_DOUBLE_EQ(*rows[1].regret_difference, 0.02);
}

// ---- Figures -----------------------------------------------------------------------

// 95 % two-sided interval of 95 of 100: 0.8871651 to 0.9835681 (binom.test of R).
TEST(LabQuality, HasTheClopperPearsonInterval) {
  const LabQuality quality = measured(LabRole::kPolicy, "quest", "", 95, 0.0).quality;
  EXPECT_NEAR(*quality.agreement_low, 0.887165, 1e-5);
  EXPECT_NEAR(*quality.agreement_high, 0.983568, 1e-5);
  EXPECT_EQ(quality.flips(), 5U);
}

TEST(LabQuality, TakesTheBoundOfKlWhereThereIsNoEstimate) {
  const analysis::Figures figures = {{"inject.kl.mean", 0.5}, {"inject.kl_estimate.median", 0.1}};
  const LabQuality quality = lab_quality(figures, format::ReplayMode::kInject);
  EXPECT_FALSE(quality.kl_is_estimate);
  EXPECT_EQ(quality.kl_mean, 0.5);
  EXPECT_EQ(quality.kl_error, std::nullopt);
}

TEST(LabMode, PrefersForced) {
  using enum format::ReplayMode;
  EXPECT_EQ(lab_mode(std::vector{kFree, kInject, kForced}), kForced);
  EXPECT_EQ(lab_mode(std::vector{kFree, kInject}), kInject);
  EXPECT_EQ(lab_mode(std::vector{kFree}), kFree);
}

// Two layers, one dense: 10 of 40 keys are seen in the other.
TEST(LabBytes, AStepReadsWhatItSees) {
  const format::Geometry geometry(
      std::vector<format::LayerGeometry>(2, {DType::kFloat32, DType::kFloat32, 1, 4, 4}));
  const std::uint64_t row_bytes = geometry.position_bytes();
  ASSERT_EQ(row_bytes, 2U * 2 * 4 * 4);
  TrialBatch batch{.rows = 1, .padded_length = 30, .cache_capacity = 40};
  batch.kv_cache = cache::CacheSpec::parse("mass:page=2,budget=4,dense=1");
  ModeRun run{.mode = format::ReplayMode::kForced, .decode_steps = 10};
  run.cache_use.logical_bytes = 40 * row_bytes;
  run.cache_use.physical_bytes = run.cache_use.peak_bytes = 50 * row_bytes;
  run.cache_use.visible_keys = 400;
  run.cache_use.seen_keys = 100;
  batch.runs = {run};
  const LabSteps steps{
      .inputs = 1, .steps = 10, .visible_keys = 360, .shortest = 40, .longest = 40};
  LabRow row;
  take_batches(std::vector{batch}, format::ReplayMode::kForced, geometry, steps, row);
  EXPECT_EQ(row.bytes.positions, 40U);
  EXPECT_DOUBLE_EQ(row.bytes.kept_share(), 1.25);
  EXPECT_DOUBLE_EQ(row.bytes.kept_per_token(), 1.25 * 64);
  EXPECT_DOUBLE_EQ(*row.applied.seen_share(), 0.25);
  // 36 keys a step; all in one layer, a quarter in the other.
  EXPECT_DOUBLE_EQ(*row.bytes.read_bytes_per_step, 36.0 * 64 * (1.0 + 0.25) / 2.0);
  EXPECT_TRUE(row.idle.empty());
  LabRow idle;
  batch.runs[0].cache_use.seen_keys = 400;
  take_batches(std::vector{batch}, format::ReplayMode::kForced, geometry, steps, idle);
  EXPECT_EQ(idle.idle, "every step saw all keys");
  EXPECT_FALSE(idle.counts());
}

TEST(LabTime, StepsAreThoseOfTheModeThatIsShown) {
  StepClock clock;
  for (const double start : {10.0, 20.0}) {  // inject, forced
    clock.tell(0, start);
    clock.tell(1, start + start / 1000.0);
    clock.tell(2, start + 3.0 * start / 1000.0);
  }
  TrialBatch batch;
  for (const auto mode : {format::ReplayMode::kInject, format::ReplayMode::kForced}) {
    batch.runs.push_back(
        {.mode = mode, .prefill_seconds = 0.5, .decode_seconds = 0.2, .decode_steps = 2});
  }
  const LabTime single = lab_time(std::vector{batch}, format::ReplayMode::kForced, clock, true);
  ASSERT_EQ(single.step_ms.size(), 2U);
  EXPECT_NEAR(single.step_ms[0], 20.0, 1e-6);
  EXPECT_NEAR(single.step_ms[1], 40.0, 1e-6);
  EXPECT_THAT(single.prefill_ms, ElementsAre(500.0));
  const LabTime mean = lab_time(std::vector{batch}, format::ReplayMode::kForced, clock, false);
  EXPECT_THAT(mean.step_ms, ElementsAre(100.0));
  EXPECT_FALSE(mean.of_steps);
}

// ---- Pairs -------------------------------------------------------------------------

// Of two inputs of 64 steps.
LabRow choosing(const std::string& spec, const std::string& frame,
                const std::function<double(int)>& kl) {
  LabRow row;
  row.role = LabRole::kPolicy;
  row.name = row.given = spec;
  row.spec = cache::CacheSpec::parse(spec).to_string();
  row.budget = "50%";
  row.frame = frame;
  double sum = 0.0;
  for (int input = 0; input < 2; ++input) {
    std::vector<double>& steps = row.step_kl.emplace_back();
    for (int step = 0; step < 64; ++step) {
      steps.push_back(kl(64 * input + step));
      sum += steps.back();
    }
  }
  row.quality.kl_mean = sum / 128;
  return row;
}

TEST(LabPairs, TheBestOfAFrameAgainstTheOthersStepByStep) {
  // What all have in common is not in the differences.
  const auto shared = [](int step) { return step % 5 == 0 ? 3.0 : 0.1; };
  const std::vector<LabPair> pairs = lab_pairs(
      {choosing("quest", "a", [&](int step) { return shared(step) + 0.2; }),
       choosing("mean-deviation", "a", shared), choosing("mass", "a", [](int) { return 0.0; }),
       choosing("random", "a", [](int) { return 9.0; }),
       choosing("window", "b", [&](int step) { return shared(step) + (step < 64 ? 0.5 : 0.0); }),
       choosing("mean-key", "c", [](int) { return 0.0; })});
  ASSERT_EQ(pairs.size(), 3U);
  EXPECT_EQ(pairs[0].best, "mean-deviation");
  EXPECT_EQ(pairs[0].other, "quest");
  EXPECT_EQ(pairs[0].steps, 128U);
  EXPECT_NEAR(pairs[0].difference, 0.2, 1e-12);
  EXPECT_NEAR(*pairs[0].half95, 0.0, 1e-12);
  EXPECT_TRUE(pairs[0].is_certain());
  // Four blocks of 0.5 and four of 0: 1.96 * sqrt(0.25^2 * 8 / 7 / 8).
  EXPECT_EQ(pairs[1].other, "window");
  EXPECT_NEAR(pairs[1].difference, 0.25, 1e-12);
  EXPECT_NEAR(*pairs[1].half95, 1.96 * 0.25 / std::sqrt(7.0), 1e-12);
  EXPECT_TRUE(pairs[1].is_certain());
  // Of another frame: against the window of the same budget alone.
  EXPECT_EQ(pairs[2].best, "mean-key");
  EXPECT_EQ(pairs[2].other, "window");
}

TEST(LabPairs, AWindowMayBeBetterAndDoesNotWin) {
  const std::vector<LabPair> pairs = lab_pairs({choosing("quest", "a", [](int) { return 0.5; }),
                                                choosing("mean-key", "a", [](int) { return 0.75; }),
                                                choosing("window", "b", [](int) { return 0.25; })});
  ASSERT_EQ(pairs.size(), 2U);
  EXPECT_EQ(pairs[0].best, "quest");
  EXPECT_EQ(pairs[1].other, "window");
  EXPECT_NEAR(pairs[1].difference, -0.25, 1e-12);
  EXPECT_TRUE(pairs[1].is_certain());
}

TEST(LabPairs, AreNotSureOfWhatStepsContradict) {
  const std::vector<LabPair> pairs =
      lab_pairs({choosing("quest", "a", [](int step) { return step / 16 % 2 == 0 ? 1.0 : 0.1; }),
                 choosing("mean-key", "a", [](int) { return 0.5; })});
  ASSERT_EQ(pairs.size(), 1U);
  EXPECT_EQ(pairs[0].best, "mean-key");
  EXPECT_NEAR(pairs[0].difference, 0.05, 1e-12);
  EXPECT_FALSE(pairs[0].is_certain());
}

// ---- Parts -------------------------------------------------------------------------

TEST(Sensitivity, PutsEachPartAloneInFewBits) {
  const cache::CacheSpec base = sensitivity_base({cache::CacheSpec::parse("int8")});
  std::vector<std::string> parts;
  for (const PlannedPart& part : plan_parts(base, 2)) {
    if (part.bits == 2) parts.push_back(part.name + ": " + part.spec.to_string());
  }
  EXPECT_THAT(parts, ElementsAre("K and V: kivi:k=2,v=2,group=32,residual=32,sinks=0",
                                 "K: kivi:k=2,v=none,group=32,residual=32,sinks=0",
                                 "V: kivi:k=none,v=2,group=32,residual=32,sinks=0",
                                 "layer 0: kivi:k=2,v=2,group=32,residual=32,sinks=0,layers=0",
                                 "layer 1: kivi:k=2,v=2,group=32,residual=32,sinks=0,layers=1"));
  EXPECT_EQ(plan_parts(base, 2).size(), 15U);
}

TEST(Sensitivity, TakesTheGroupsOfAPolicyThatIsAskedFor) {
  const cache::CacheSpec base = sensitivity_base(
      {cache::CacheSpec::parse("int8"), cache::CacheSpec::parse("kivi:group=64,sinks=4")});
  EXPECT_EQ(plan_parts(base, 1).front().spec.to_string(),
            "kivi:k=8,v=8,group=64,residual=128,sinks=4");
}

TEST(Sensitivity, NeedsNoPolicyAndATimeDoes) {
  LabRequest request;
  request.sensitivity = true;
  EXPECT_TRUE(read_lab_plan(request).policies.empty());
  request.breakeven = true;
  EXPECT_THAT(lab_refusal(request), HasSubstr("no policy whose time to compare"));
}

// ---- Break-even --------------------------------------------------------------------

// Steps of inputs of 500 and of 2000 positions, 64 each; `milliseconds` of a position.
LabRow timed(LabRole role, const std::function<double(double)>& milliseconds) {
  LabRow row;
  row.role = role;
  row.name = "timed";
  for (const double first : {500.0, 2000.0}) {
    for (double step = 0; step < 64; ++step) {
      row.time.step_positions.push_back(first + step);
      row.time.step_ms.push_back(milliseconds(first + step));
    }
  }
  row.time.of_steps = true;
  return row;
}

LabBreakeven fitted(const std::function<double(double)>& difference) {
  const LabRow full = timed(LabRole::kFull, [](double n) { return 20.0 + 0.01 * n; });
  const LabRow policy =
      timed(LabRole::kPolicy, [&](double n) { return 20.0 + 0.01 * n + difference(n); });
  return lab_breakeven({full, policy}).at(0);
}

TEST(Breakeven, IsWhereTheLineOfDifferencesCrossesZero) {
  // Now and then a step takes long, on either side: medians leave that out.
  const LabBreakeven pays = fitted(
      [](double n) { return 3.0 - 0.003 * n + (static_cast<int>(n) % 7 == 0 ? 50.0 : 0.0); });
  ASSERT_TRUE(pays.crossing.has_value());
  EXPECT_NEAR(*pays.crossing, 1000.0, 20.0);
  EXPECT_NEAR(pays.slope, -0.003, 1e-4);
  EXPECT_EQ(pays.verdict(), LabBreakeven::Verdict::kPaysFrom);
  EXPECT_EQ(pays.shortest, 500U);
  EXPECT_EQ(pays.longest, 2063U);
  EXPECT_EQ(fitted([](double n) { return -3.0 + 0.003 * n; }).verdict(),
            LabBreakeven::Verdict::kPaysUpTo);
  EXPECT_EQ(fitted([](double) { return -1.0; }).verdict(), LabBreakeven::Verdict::kPaysAlways);
  EXPECT_EQ(fitted([](double n) { return 9.0 - 0.003 * n; }).verdict(),
            LabBreakeven::Verdict::kPaysNever);
}

TEST(Breakeven, CannotTellWhatTheSpreadHides) {
  // Blocks of 16 steps in turn a second faster and slower.
  const LabBreakeven noisy =
      fitted([](double n) { return static_cast<int>(n) / 16 % 2 == 0 ? -1.0 : 1.0; });
  EXPECT_EQ(noisy.verdict(), LabBreakeven::Verdict::kCannotTell);
  EXPECT_GT(noisy.at_longest_half, 0.5);
}

TEST(Breakeven, TakesSeveralLengths) {
  LabRow full = timed(LabRole::kFull, [](double) { return 20.0; });
  LabRow policy = timed(LabRole::kPolicy, [](double) { return 19.0; });
  for (LabRow* row : {&full, &policy}) {
    row->time.step_ms.resize(64);
    row->time.step_positions.resize(64);
  }
  EXPECT_THAT(lab_breakeven({full, policy}).at(0).missing, HasSubstr("too few lengths"));
  policy.time.step_ms.pop_back();
  EXPECT_THAT(lab_breakeven({full, policy}).at(0).missing, HasSubstr("were not both timed"));
  policy.idle = "every step saw all keys";
  EXPECT_TRUE(lab_breakeven({full, policy}).empty());
}

}  // namespace
}  // namespace kvtool::run
