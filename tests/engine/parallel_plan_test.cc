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

// A position takes 2 layers * 2 * 2 heads * 4 elements * 2 bytes = 64 bytes as they are. As
// int8, 2 * 2 * 2 rows of 4 bytes and a scale of 4 are kept, and K, V and one of them as
// float32, 16 + 16 + 32 bytes, are the work space: 128.
TEST(ParallelPlan, LimitsCountTheWorkSpaceOfTheCache) {
  ModelInfo model;
  const format::LayerGeometry layer{DType::kBFloat16, DType::kBFloat16, 2, 4, 4};
  model.geometry = format::Geometry({layer, layer});
  model.vocab_size = 1000;
  const auto kept = [&](const char* policy, std::uint64_t memory) {
    return pass_limits(model, cache::CacheSpec::parse(policy), memory).kept_positions;
  };
  EXPECT_EQ(kept("contiguous", 2 * 64 * 100), 100);
  EXPECT_EQ(kept("int8", 2 * 64 * 100), 50);
  EXPECT_EQ(kept("int8", 1), 1);
}

// 1000 float32 logits, twice 64 bytes of K/V, and the estimate of 192 KiB.
TEST(ParallelPlan, LimitsBoundTheTokensOfAPass) {
  ModelInfo model;
  const format::LayerGeometry layer{DType::kBFloat16, DType::kBFloat16, 2, 4, 4};
  model.geometry = format::Geometry({layer, layer});
  model.vocab_size = 1000;
  const std::uint64_t token = 4 * 1000 + 2 * 64 + 192 * 1024;
  EXPECT_EQ(pass_limits(model, {}, 2 * 7 * token).tokens, 7);
  EXPECT_EQ(pass_limits(model, {}, 2 * 7 * token - 2).tokens, 6);
  EXPECT_EQ(pass_limits(model, {}, 0).tokens, 1);
  EXPECT_EQ(pass_limits(model, {}, std::uint64_t{1} << 40).tokens, 1024);
}

TEST(ParallelPlan, ARowWithoutStepsIsItsPrompt) {
  EXPECT_EQ(plan({{3, 0}}, {100, 100}), (Passes{{{0, true, 0, 0}}}));
  EXPECT_TRUE(plan({}, {100, 100}).empty());
}

}  // namespace
}  // namespace kvtool::engine
