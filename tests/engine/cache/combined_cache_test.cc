// Policies put together in one spec: selection over every way to keep rows.
#include <gtest/gtest.h>

#include "engine/cache/policies.h"
#include "engine/toy_run.h"
#include "engine/toy_state.h"

namespace kvtool::engine {
namespace {

using format::ReplayMode;

// Long enough for `kivi`, whose last 128 positions are whole.
constexpr std::uint64_t kSteps = 190;

class CombinedCache : public testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] static cache::CacheSpec spec() { return cache::CacheSpec::parse(GetParam()); }

  static TorchModel roomy_model() {
    TorchModel model = toy_model();
    model.info.max_positions = 256;
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

TEST_P(CombinedCache, InParallelStepsSeeTheSame) {
  TorchModel model = roomy_model();
  const Rows recorded = record(model, kSteps);
  for (const ReplayMode mode : {ReplayMode::kInject, ReplayMode::kForced}) {
    const Replayed steps = run(model, recorded, replay_options(mode, spec(), false));
    const Replayed at_once = run(model, recorded, replay_options(mode, spec(), true));
    expect_alike(at_once.rows, steps.rows);
  }
}

TEST_P(CombinedCache, ReplaysItsOwnRecordingToTheBit) {
  TorchModel model = roomy_model();
  const Rows recorded = record(model, kSteps, spec());
  for (const ReplayMode mode : {ReplayMode::kInject, ReplayMode::kForced, ReplayMode::kFree}) {
    const Replayed replayed = run(model, recorded, replay_options(mode, spec(), false));
    for (std::size_t row = 0; row < 2; ++row) {
      EXPECT_EQ(replayed.rows[row]->deltas, recorded[row]->deltas);
    }
  }
}

TEST_P(CombinedCache, BothOfThemAct) {
  TorchModel model = roomy_model();
  const Rows recorded = record(model, kSteps);
  const cache::CacheUse use =
      run(model, recorded, replay_options(ReplayMode::kInject, spec(), false)).result.cache_use;
  EXPECT_LT(use.seen_keys, use.visible_keys);
  EXPECT_GT(use.applied_rows, 0U);
}

INSTANTIATE_TEST_SUITE_P(Specs, CombinedCache,
                         testing::Values("window:sinks=2,recent=40,codec=fp8",
                                         "window:sinks=2,recent=40,codec=kivi2",
                                         "quest:page=4,budget=8,dense=0,codec=int8",
                                         "quest:page=4,budget=8,dense=0,codec=fp8",
                                         "mean-deviation:page=4,budget=8,dense=0,codec=kivi4",
                                         "mass:page=4,budget=8,dense=0,codec=kivi8"));

}  // namespace
}  // namespace kvtool::engine
