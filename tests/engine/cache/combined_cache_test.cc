// Policies put together in one spec: selection over every way to keep rows, wherever they are.
#include <gtest/gtest.h>

#include "engine/cache/policies.h"
#include "engine/toy_run.h"
#include "engine/toy_state.h"
#include "kvtool/cache/cache_plan.h"
#include "kvtool/cache/key_budget.h"

namespace kvtool::engine {
namespace {

using format::ReplayMode;

// Long enough for `kivi`, whose last 128 positions are whole.
constexpr std::uint64_t kSteps = 260;

class CombinedCache : public testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] static cache::CacheSpec spec() { return cache::CacheSpec::parse(GetParam()); }

  static void expect_all_acted(const cache::CacheUse& use) {
    if (cache::KeyBudget(spec()).selects(1)) {
      EXPECT_LT(use.seen_keys, use.visible_keys);
    }
    if (cache::store_of(spec()) != cache::CacheSpec()) {
      EXPECT_GT(use.applied_rows, 0U);
    }
    if (spec().policy() == "paged") {
      EXPECT_GT(use.paged_out, 0U);
      EXPECT_GT(use.read_back, 0U);
    }
  }

  static TorchModel roomy_model() {
    TorchModel model = toy_model();
    model.info.max_positions = 300;
    return model;
  }

  // The hidden states' K/V of both layers, of this device.
  static void expect_alike(const Rows& some, const Rows& others) {
    for (std::size_t row = 0; row < some.size(); ++row) {
      for (std::int64_t layer = 0; layer < 2; ++layer) {
        EXPECT_TRUE(at::allclose(told_state(*some[row], layer, true),
                                 told_state(*others[row], layer, true), 1e-4, 1e-5));
      }
    }
  }
};

TEST_P(CombinedCache, InParallelStepsSeeTheSameAndAllOfItActs) {
  TorchModel model = roomy_model();
  const Rows recorded = record(model, kSteps);
  for (const ReplayMode mode : {ReplayMode::kInject, ReplayMode::kForced}) {
    const Replayed steps = run(model, recorded, replay_options(mode, spec(), false));
    const Replayed at_once = run(model, recorded, replay_options(mode, spec(), true));
    expect_alike(at_once.rows, steps.rows);
    expect_all_acted(steps.result.cache_use);
  }
}

// The next batch of the same size, with other padding, gets the same cache.
TEST_P(CombinedCache, ABatchAfterAnotherGetsTheBitsOfTheFirst) {
  TorchModel fresh = roomy_model();
  const Rows expected = record(fresh, kSteps, spec());
  TorchModel model = roomy_model();
  const std::vector<Input> others{{{9, 8, 7, 6, 5}}, {{2, 1}}};
  std::ignore = generate(model, others, {kSteps, true, 4, 5, spec()}, {}, {});
  ASSERT_TRUE(model.spare_cache.holds_one());
  const Rows recorded = record(model, kSteps, spec());
  for (std::size_t row = 0; row < 2; ++row) {
    EXPECT_EQ(recorded[row]->prompt_values, expected[row]->prompt_values);
    EXPECT_EQ(recorded[row]->deltas, expected[row]->deltas);
  }
}

TEST_P(CombinedCache, ReplaysItsOwnRecordingToTheBit) {
  TorchModel model = roomy_model();
  const Rows recorded = record(model, kSteps, spec());
  for (const ReplayMode mode : {ReplayMode::kInject, ReplayMode::kFree}) {
    const Replayed replayed = run(model, recorded, replay_options(mode, spec(), false));
    for (std::size_t row = 0; row < 2; ++row) {
      EXPECT_EQ(replayed.rows[row]->deltas, recorded[row]->deltas);
    }
  }
}

TEST_P(CombinedCache, TakesWhatThePlanSays) {
  const TorchModel model = roomy_model();
  const std::vector<std::int32_t> prompt(5, 1);
  const BatchShape shape({prompt, prompt}, 5, 300);
  const auto kept = cache_maker(spec(), model.rotations)(model.layout, shape, at::kCPU);
  const cache::CachePlan plan = cache::plan_cache(model.info.geometry, {2, 300, 5}, spec());
  kept->begin({0, 5});
  EXPECT_EQ(kept->use().physical_bytes, plan.peak_bytes());
  kept->begin({5, 1});
  EXPECT_EQ(kept->use().physical_bytes, plan.physical_bytes());
  EXPECT_EQ(kept->use().peak_bytes, plan.peak_bytes());
}

INSTANTIATE_TEST_SUITE_P(
    Specs, CombinedCache,
    testing::Values("paged:page=8,device=8,check=1,codec=int8",
                    "paged:page=8,device=10,check=1,codec=fp8,select=quest,budget=6,dense=1",
                    "paged:page=8,device=10,check=1,residency=predictive,prefetch=2,select=quest,"
                    "budget=6,dense=1",
                    "paged:page=32,device=4,check=1,codec=kivi4",
                    "paged:page=32,device=4,check=1,codec=kivi2,select=mass,budget=4,dense=0",
                    "window:sinks=2,recent=40,codec=fp8", "window:sinks=2,recent=40,codec=kivi2",
                    "window:sinks=2,recent=40,positions=cache,codec=int8",
                    "window:sinks=9,recent=40,positions=cache,codec=kivi4",
                    "quest:page=4,budget=8,dense=0,codec=int8",
                    "quest:page=4,budget=8,dense=0,codec=fp8",
                    "mean-deviation:page=4,budget=8,dense=0,codec=kivi4",
                    "mass:page=4,budget=8,dense=0,codec=kivi8"));

// A paged spec and the one whose numbers it must have: where pages are changes no number, only the
// order of sums.
using SpecPair = std::pair<std::string, std::string>;

class PagedIsTheSame : public testing::TestWithParam<SpecPair> {};

TEST_P(PagedIsTheSame, AsWithRoomForEverything) {
  TorchModel model = toy_model();
  model.info.max_positions = 300;
  const Rows recorded = record(model, kSteps);
  const auto replayed = [&](const std::string& spec) {
    return run(model, recorded,
               replay_options(ReplayMode::kForced, cache::CacheSpec::parse(spec), false));
  };
  const Replayed paged = replayed(GetParam().first);
  const Replayed plain = replayed(GetParam().second);
  for (std::size_t row = 0; row < 2; ++row) {
    for (std::size_t step = 0; step < kSteps - 1; ++step) {
      EXPECT_EQ(paged.rows[row]->steps[step].token, plain.rows[row]->steps[step].token);
    }
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      EXPECT_TRUE(at::allclose(told_state(*paged.rows[row], layer, true),
                               told_state(*plain.rows[row], layer, true), 1e-4, 1e-5));
    }
  }
  EXPECT_GT(paged.result.cache_use.read_back, 0U);
  EXPECT_EQ(paged.result.cache_use.seen_keys, plain.result.cache_use.seen_keys);
  EXPECT_EQ(paged.result.cache_use.visible_keys, plain.result.cache_use.visible_keys);
}

INSTANTIATE_TEST_SUITE_P(
    Specs, PagedIsTheSame,
    testing::Values(
        SpecPair("paged:page=4,device=16,codec=int8", "int8"),
        SpecPair("paged:page=4,device=16,codec=fp8", "fp8"),
        SpecPair("paged:page=32,device=4,codec=kivi4", "kivi"),
        SpecPair("paged:page=32,device=4,codec=kivi2", "kivi:k=2,v=2"),
        SpecPair("paged:page=4,device=20,select=quest,budget=8,dense=1",
                 "quest:page=4,budget=8,dense=1"),
        SpecPair(
            "paged:page=4,device=20,check=1,residency=predictive,select=quest,budget=8,dense=1",
            "quest:page=4,budget=8,dense=1"),
        SpecPair("paged:page=4,device=20,check=1,residency=predictive,rank=frequency,select=mass,"
                 "budget=8,dense=0",
                 "mass:page=4,budget=8,dense=0"),
        SpecPair("paged:page=4,device=20,check=1,residency=predictive,rank=confidence,prefetch=9,"
                 "select=random,budget=8,dense=0",
                 "random:page=4,budget=8,dense=0"),
        SpecPair("paged:page=32,device=4,residency=predictive,select=quest,budget=4,dense=0,"
                 "codec=kivi4",
                 "quest:page=32,budget=4,dense=0,codec=kivi4"),
        SpecPair("paged:page=4,device=8,select=mean-key,budget=25%,sinks=0,recent=1,dense=0",
                 "mean-key:page=4,budget=25%,sinks=0,recent=1,dense=0"),
        SpecPair("paged:page=4,device=8,select=mass,budget=8,dense=0,codec=int8",
                 "mass:page=4,budget=8,dense=0,codec=int8"),
        // Of pages of one position: prompts are shorter than the window.
        SpecPair("paged:page=1,device=24,check=1,select=window,budget=40,sinks=0,recent=1,dense=0",
                 "window:sinks=0,recent=40"),
        SpecPair("paged:page=4,device=8,select=random,budget=8,dense=0",
                 "random:page=4,budget=8,dense=0"),
        SpecPair("paged:page=32,device=4,select=quest,budget=4,dense=0,codec=kivi4",
                 "quest:page=32,budget=4,dense=0,codec=kivi4")));

}  // namespace
}  // namespace kvtool::engine
