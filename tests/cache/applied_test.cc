#include "kvtool/cache/applied.h"

#include <gtest/gtest.h>

namespace kvtool::cache {
namespace {

// In 4 layers of 64 bytes a position.
RunLength run_of(std::uint64_t positions, std::uint64_t steps) {
  const format::LayerGeometry layer{DType::kFloat32, DType::kFloat32, 1, 8, 8};
  return {.geometry = format::Geometry(std::vector<format::LayerGeometry>(4, layer)),
          .positions = positions,
          .steps = steps,
          .rows = 2,
          .capacity = positions + 40};
}

// A prompt of 100 tokens and 20 steps, in a cache that has room for more.
const RunLength kRun = run_of(120, 20);

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
  EXPECT_FALSE(is_applied("window:recent=10,codec=kivi4", saw(50, 190, 190), run_of(190, 20)));
  EXPECT_TRUE(is_applied("window:recent=10,codec=kivi4", saw(50, 120, 120)));
}

TEST(NotApplied, KiviMustHaveKeptRowsOnceAGroupIsOldEnough) {
  EXPECT_TRUE(is_applied("kivi", {}));
  EXPECT_FALSE(is_applied("kivi:residual=64,group=32", {}));
  // 119 positions are fewer than 88 and a group.
  EXPECT_TRUE(is_applied("kivi:residual=88,group=32", {}, run_of(119, 19)));
  EXPECT_FALSE(is_applied("kivi:residual=88,group=32", {}));
  // It quantizes as a pass begins: of the prompt alone nothing.
  EXPECT_TRUE(is_applied("kivi:residual=64,group=32", {}, run_of(120, 0)));
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
    EXPECT_TRUE(is_applied(spec, {}, run_of(100, 0))) << spec;
  }
}

TEST(NotApplied, ASelectorThatShowsEverythingMayDoSo) {
  EXPECT_TRUE(is_applied("window", saw(2400, 2400, 120)));
  EXPECT_TRUE(is_applied("quest:budget=100%", saw(2400, 2400, 120)));
  // No layer is left to choose in.
  EXPECT_TRUE(is_applied("quest:page=4,budget=4,dense=4", {}));
  EXPECT_FALSE(is_applied("quest:page=4,budget=4,dense=3", {}));
}

CacheUse paged(std::uint64_t out, std::uint64_t back, std::uint64_t most) {
  CacheUse use;
  use.paged_out = out;
  use.read_back = back;
  use.most_visible_keys = most;
  return use;
}

CacheUse kept(CacheUse use) {
  use.applied_rows = 1;
  return use;
}

TEST(NotApplied, PagesThatHaveNoRoomMustHaveMoved) {
  const CacheSpec spec = CacheSpec::parse("paged:page=16,device=14");  // 7 for each of two rows
  EXPECT_EQ(not_applied(spec, kRun, {}), "no step attended to its pages");
  EXPECT_EQ(not_applied(spec, kRun, paged(0, 0, 120)),
            "a step needed 8 pages of an input, 7 have room, and none left the device");
  EXPECT_EQ(not_applied(spec, kRun, paged(1, 0, 120)),
            "a step needed 8 pages of an input, 7 have room, and none came back");
  EXPECT_FALSE(not_applied(spec, kRun, paged(1, 1, 120)));
  // The same room in bytes, of a layer.
  EXPECT_FALSE(is_applied("paged:page=16,device=14K", paged(0, 0, 120)));
  EXPECT_TRUE(is_applied("paged:page=16,device=14K", paged(1, 1, 120)));
}

TEST(NotApplied, PagesThatNoStepNeededMayHaveStayed) {
  const char* spec = "paged:page=16,device=14";
  // 7 pages are enough, of the whole input or of the windows of its layers.
  EXPECT_TRUE(is_applied(spec, {}, run_of(112, 20)));
  EXPECT_TRUE(is_applied(spec, paged(0, 0, 112)));
  // What the only step that needed an eighth gave up for it was not needed again.
  EXPECT_TRUE(is_applied(spec, paged(1, 0, 113)));
  EXPECT_TRUE(is_applied(spec, paged(1, 0, 120), run_of(120, 1)));
  EXPECT_TRUE(is_applied(spec, {}, run_of(120, 0)));
  // Of 232 positions 96 are in pages, three where two have room; since when is not known. Of 264
  // they are 128.
  const char* in_groups = "paged:page=32,device=4,codec=kivi4";
  EXPECT_FALSE(is_applied(in_groups, kept(paged(0, 0, 96)), run_of(232, 20)));
  EXPECT_TRUE(is_applied(in_groups, kept(paged(1, 0, 96)), run_of(232, 20)));
  EXPECT_FALSE(is_applied(in_groups, kept(paged(1, 0, 128)), run_of(264, 20)));
  EXPECT_TRUE(is_applied(in_groups, kept(paged(0, 0, 0)), run_of(232, 20)));
  RunLength at_once = kRun;
  at_once.in_parallel = true;
  EXPECT_TRUE(is_applied(spec, {}, at_once));
}

TEST(NotApplied, WithRoomForEveryPageNoneMayHaveMoved) {
  EXPECT_TRUE(is_applied("paged", {}));
  // Room for the 10 pages of 160 positions.
  EXPECT_TRUE(is_applied("paged:page=16,device=20", {}));
  EXPECT_TRUE(is_applied("paged:page=16,device=20", {}, run_of(160, 20)));
  EXPECT_FALSE(is_applied("paged:page=16,device=19", {}, run_of(160, 20)));
  CacheUse moved;
  moved.moved_bytes = 1;
  EXPECT_EQ(not_applied(CacheSpec::parse("paged"), kRun, moved),
            "all 10 pages of an input had room, and pages were moved");
  EXPECT_FALSE(is_applied("paged", paged(1, 1, 120)));
}

}  // namespace
}  // namespace kvtool::cache
