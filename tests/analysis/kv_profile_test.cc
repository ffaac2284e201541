#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kvtool/analysis/kv_error.h"
#include "support/error_of.h"

namespace kvtool::analysis {
namespace {

using enum KvKind;

// An error of one element with this squared error against a reference of 1.
KvError squared(double error) {
  KvError result;
  result.elements = 1;
  result.differing = error > 0.0 ? 1 : 0;
  result.sum_squared_error = error;
  result.sum_squared_reference = 1.0;
  return result;
}

TEST(KvProfile, NothingIsMeasuredAtFirst) {
  EXPECT_FALSE(KvProfile().measured());
  const KvProfile profile({2, 1}, 4);
  EXPECT_FALSE(profile.measured());
  EXPECT_EQ(profile.num_layers(), 2U);
  EXPECT_EQ(profile.num_heads(0), 2U);
  EXPECT_EQ(profile.num_blocks(), 0U);
  EXPECT_EQ(profile.total().elements, 0U);
}

TEST(KvProfile, SortsRowsIntoLayersHeadsAndBlocks) {
  KvProfile profile({2, 1}, 4);
  profile.add(kKey, 0, 1, 5, squared(1.0));
  profile.add(kKey, 0, 0, 3, squared(2.0));
  profile.add(kKey, 0, 1, 4, squared(4.0));
  profile.add(kValue, 1, 0, 0, squared(8.0));

  EXPECT_EQ(profile.num_positions(), 6U);
  EXPECT_EQ(profile.num_blocks(), 2U);
  EXPECT_EQ(profile.cell(kKey, 0, 0, 0).sum_squared_error, 2.0);
  EXPECT_EQ(profile.cell(kKey, 0, 1, 0).elements, 0U);
  EXPECT_EQ(profile.cell(kKey, 0, 1, 1).sum_squared_error, 5.0);
  EXPECT_EQ(profile.cell(kValue, 1, 0, 1).elements, 0U) << "never reached, still there to read";
  EXPECT_EQ(profile.head(kKey, 0, 1).sum_squared_error, 5.0);
  EXPECT_EQ(profile.block(kKey, 0, 0).sum_squared_error, 2.0);
  EXPECT_EQ(profile.layer(kKey, 0).sum_squared_error, 7.0);
  EXPECT_EQ(profile.layer(kValue, 0).elements, 0U);
  EXPECT_EQ(profile.total(kKey).elements, 3U);
  EXPECT_EQ(profile.total().sum_squared_error, 15.0);
}

TEST(KvProfile, RowErrorsAreKeptOnePerPosition) {
  KvProfile profile({1}, 16);
  profile.set_row_error(kKey, 0, 2, 0.25);
  EXPECT_EQ(profile.row_error(kKey, 0, 2), 0.25F);
  EXPECT_TRUE(std::isnan(profile.row_error(kKey, 0, 1)));
  EXPECT_TRUE(std::isnan(profile.row_error(kValue, 0, 2)));
  EXPECT_EQ(profile.num_positions(), 3U);
}

TEST(KvProfile, PoolingAddsCellsAndKeepsTheLargerRows) {
  KvProfile a({1}, 2);
  a.add(kKey, 0, 0, 0, squared(1.0));
  a.set_row_error(kKey, 0, 0, 1.0);
  KvProfile b({1}, 2);
  b.add(kKey, 0, 0, 0, squared(9.0));
  b.add(kKey, 0, 0, 3, squared(4.0));
  b.set_row_error(kKey, 0, 0, 3.0);
  b.set_row_error(kKey, 0, 3, 2.0);
  a.add(b);
  EXPECT_EQ(a.num_positions(), 4U);
  EXPECT_EQ(a.cell(kKey, 0, 0, 0).sum_squared_error, 10.0);
  EXPECT_EQ(a.cell(kKey, 0, 0, 1).sum_squared_error, 4.0);
  EXPECT_EQ(a.row_error(kKey, 0, 0), 3.0F);
  EXPECT_TRUE(std::isnan(a.row_error(kKey, 0, 2)));
  EXPECT_EQ(a.row_error(kKey, 0, 3), 2.0F);
}

TEST(KvProfile, UnmeasuredProfileTakesOverTheShapeAndAddsNothing) {
  KvProfile measured({1}, 2);
  measured.add(kKey, 0, 0, 0, squared(1.0));
  KvProfile pool;
  pool.add(KvProfile({1}, 2));
  EXPECT_EQ(pool.num_layers(), 1U);
  pool.add(measured);
  pool.add(KvProfile({7, 7}, 3));
  pool.add(KvProfile());
  EXPECT_EQ(pool.total().elements, 1U);
  EXPECT_EQ(pool.block_positions(), 2U);
}

TEST(KvProfile, RefusesToPoolOtherShapes) {
  KvProfile profile({1, 1}, 2);
  profile.add(kKey, 0, 0, 0, squared(1.0));
  for (const KvProfile& shape : {KvProfile({1}, 2), KvProfile({1, 2}, 2), KvProfile({1, 1}, 4)}) {
    KvProfile other = shape;
    other.add(kKey, 0, 0, 0, squared(1.0));
    EXPECT_EQ(error_of([&] { profile.add(other); }).code(), ErrorCode::kIncompatible);
  }
}

TEST(KvProfile, RefusesHeadsThatTheLayerLacks) {
  KvProfile profile({1}, 2);
  EXPECT_EQ(error_of([&] { profile.add(kKey, 0, 1, 0, squared(1.0)); }).code(), ErrorCode::kMisuse);
}

TEST(KvProfile, HeadsComeFromTheGeometry) {
  const format::Geometry geometry(
      {format::LayerGeometry{DType::kBFloat16, DType::kBFloat16, 3, 8, 8},
       format::LayerGeometry{DType::kBFloat16, DType::kBFloat16, 1, 8, 8}});
  EXPECT_EQ(heads_per_layer(geometry), (std::vector<std::uint32_t>{3, 1}));
}

TEST(BlockPositions, AreAPowerOfTwoThatKeepsTheNumberOfBlocks) {
  EXPECT_EQ(choose_block_positions(0), 16U);
  EXPECT_EQ(choose_block_positions(512), 16U);
  EXPECT_EQ(choose_block_positions(513), 32U);
  EXPECT_EQ(choose_block_positions(1024), 32U);
  EXPECT_EQ(choose_block_positions(100000), 4096U);
  EXPECT_EQ(choose_block_positions(100, 4), 32U);
}

}  // namespace
}  // namespace kvtool::analysis
