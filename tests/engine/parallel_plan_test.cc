#include "engine/parallel_plan.h"

#include <gtest/gtest.h>

namespace kvtool::engine {
namespace {

using Passes = std::vector<std::vector<PlannedPiece>>;

Passes plan(std::vector<RowLength> rows, PassLimits limits) { return plan_passes(rows, limits); }

TEST(ParallelPlan, RowsShareAPassUntilItIsFull) {
  EXPECT_EQ(plan({{3, 4}, {2, 5}, {1, 6}}, {14, 1000}),
            (Passes{{{0, true, 0, 4}, {1, true, 0, 5}}, {{2, true, 0, 6}}}));
}

TEST(ParallelPlan, StepsOfALongRowGoOnInTheNextPass) {
  EXPECT_EQ(plan({{3, 9}}, {8, 1000}), (Passes{{{0, true, 0, 5}}, {{0, false, 5, 4}}}));
}

TEST(ParallelPlan, AnotherRowFillsWhatALongRowLeaves) {
  EXPECT_EQ(plan({{3, 9}, {2, 2}}, {8, 1000}),
            (Passes{{{0, true, 0, 5}}, {{0, false, 5, 4}, {1, true, 0, 2}}}));
}

TEST(ParallelPlan, APromptIsNeverDivided) {
  EXPECT_EQ(plan({{2, 1}, {20, 3}}, {8, 1000}),
            (Passes{{{0, true, 0, 1}}, {{1, true, 0, 0}}, {{1, false, 0, 3}}}));
}

TEST(ParallelPlan, KeptPositionsLimitAPassToo) {
  EXPECT_EQ(plan({{3, 4}, {2, 5}}, {100, 8}), (Passes{{{0, true, 0, 4}}, {{1, true, 0, 5}}}));
}

TEST(ParallelPlan, ATinyLimitStillMakesProgress) {
  EXPECT_EQ(plan({{1, 2}}, {1, 1}),
            (Passes{{{0, true, 0, 0}}, {{0, false, 0, 1}}, {{0, false, 1, 1}}}));
}

TEST(ParallelPlan, ARowWithoutStepsIsItsPrompt) {
  EXPECT_EQ(plan({{3, 0}}, {100, 100}), (Passes{{{0, true, 0, 0}}}));
  EXPECT_TRUE(plan({}, {100, 100}).empty());
}

}  // namespace
}  // namespace kvtool::engine
