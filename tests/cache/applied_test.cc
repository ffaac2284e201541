#include "kvtool/cache/applied.h"

#include <gtest/gtest.h>

namespace kvtool::cache {
namespace {

// 4 layers, a prompt of 100 tokens and 20 steps.
constexpr RunLength kRun{4, 120, 20};

bool is_applied(const char* spec, const CacheUse& use, const RunLength& run = kRun) {
  return !not_applied(CacheSpec::parse(spec), run, use);
}

CacheUse saw(std::uint64_t seen, std::uint64_t visible, std::uint64_t most) {
  CacheUse use;
  use.seen_keys = seen;
  use.visible_keys = visible;
  use.most_visible_keys = most;
  return use;
}

TEST(NotApplied, ContiguousHasNothingToDo) { EXPECT_TRUE(is_applied("contiguous", {})); }

TEST(NotApplied, ACodecMustHaveKeptRows) {
  CacheUse some;
  some.applied_rows = 1;
  EXPECT_TRUE(is_applied("int8", some));
  EXPECT_EQ(not_applied(CacheSpec::parse("int8"), kRun, {}),
            "no row was kept otherwise than the model made it");
  CacheUse selected = saw(50, 120, 120);
  EXPECT_FALSE(is_applied("window:recent=10,codec=int8", selected));
  selected.applied_rows = 1;
  EXPECT_TRUE(is_applied("window:recent=10,codec=int8", selected));
  EXPECT_FALSE(is_applied("window:recent=10,codec=kivi4", saw(50, 190, 190), {4, 190, 20}));
  EXPECT_TRUE(is_applied("window:recent=10,codec=kivi4", saw(50, 120, 120)));
}

TEST(NotApplied, KiviMustHaveKeptRowsOnceAGroupIsOldEnough) {
  EXPECT_TRUE(is_applied("kivi", {}));
  EXPECT_FALSE(is_applied("kivi:residual=64,group=32", {}));
  // 119 positions are fewer than 88 and a group.
  EXPECT_TRUE(is_applied("kivi:residual=88,group=32", {}, {4, 119, 19}));
  EXPECT_FALSE(is_applied("kivi:residual=88,group=32", {}));
  // It quantizes as a pass begins: of the prompt alone nothing.
  EXPECT_TRUE(is_applied("kivi:residual=64,group=32", {}, {4, 120, 0}));
  CacheUse some;
  some.applied_rows = 1;
  EXPECT_TRUE(is_applied("kivi:residual=64,group=32", some));
}

TEST(NotApplied, ASelectorMustHaveHiddenWhatItsBudgetDoesNotHold) {
  for (const char* spec : {"window:sinks=2,recent=10", "quest:page=4,budget=4,dense=2"}) {
    EXPECT_TRUE(is_applied(spec, saw(2399, 2400, 120))) << spec;
    EXPECT_EQ(not_applied(CacheSpec::parse(spec), kRun, saw(2400, 2400, 120)),
              "a step could see 120 keys, and every step saw all of them");
    EXPECT_EQ(not_applied(CacheSpec::parse(spec), kRun, {}),
              "no step asked it for the keys to see");
    // Layers with windows of their own of 12 keys, which is in the budget.
    EXPECT_TRUE(is_applied(spec, saw(240, 240, 12))) << spec;
    EXPECT_TRUE(is_applied(spec, {}, {4, 100, 0})) << spec;
  }
}

TEST(NotApplied, ASelectorThatShowsEverythingMayDoSo) {
  EXPECT_TRUE(is_applied("window", saw(2400, 2400, 120)));
  EXPECT_TRUE(is_applied("quest:budget=100%", saw(2400, 2400, 120)));
  // No layer is left to choose in.
  EXPECT_TRUE(is_applied("quest:page=4,budget=4,dense=4", {}));
  EXPECT_FALSE(is_applied("quest:page=4,budget=4,dense=3", {}));
}

}  // namespace
}  // namespace kvtool::cache
