#include "engine/logit_scan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

namespace kvtool::engine {
namespace {

// Few distinct values, so that ties are everywhere.
std::vector<float> random_row(std::size_t size, std::uint32_t seed, int distinct) {
  std::mt19937 random(seed);
  std::vector<float> row(size);
  for (float& x : row) x = static_cast<float>(static_cast<int>(random() % distinct) - distinct / 2);
  return row;
}

std::vector<std::int64_t> sorted_keys(const std::vector<float>& row, std::size_t count) {
  std::vector<std::int64_t> keys;
  for (std::size_t id = 0; id < row.size(); ++id) keys.push_back(ordered_key(row[id], id));
  std::sort(keys.begin(), keys.end(), std::greater<>());
  keys.resize(count);
  return keys;
}

TEST(LogitScan, LargestKeysAreThoseOfASortedRow) {
  std::vector<std::int64_t> keys;
  for (const std::size_t size : {1U, 7U, 64U, 65U, 1000U, 5003U}) {
    for (const int distinct : {1, 3, 1000000}) {
      const std::vector<float> row = random_row(size, static_cast<std::uint32_t>(size), distinct);
      for (const std::size_t count : {std::size_t{1}, size / 2 + 1, size}) {
        largest_keys(row, count, keys);
        EXPECT_EQ(keys, sorted_keys(row, count)) << size << ", " << distinct << ", " << count;
      }
    }
  }
}

TEST(LogitScan, LargestKeysOfARisingRowMoveTheThresholdAllTheTime) {
  std::vector<float> row(4000);
  for (std::size_t id = 0; id < row.size(); ++id) row[id] = static_cast<float>(id);
  std::vector<std::int64_t> keys;
  largest_keys(row, 5, keys);
  EXPECT_EQ(keys, sorted_keys(row, 5));
}

TEST(LogitScan, MinusInfinityIsALogitLikeAnyOther) {
  std::vector<float> row(200, -std::numeric_limits<float>::infinity());
  row[150] = 1.0F;
  std::vector<std::int64_t> keys;
  largest_keys(row, 3, keys);
  EXPECT_EQ(keys, sorted_keys(row, 3));
}

TEST(LogitScan, NanOfEitherSignRanksFirst) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const std::int64_t largest = ordered_key(std::numeric_limits<float>::infinity(), 0);
  EXPECT_GT(ordered_key(kNan, 9), largest);
  EXPECT_EQ(ordered_key(-kNan, 9), ordered_key(kNan, 9));
}

TEST(LogitScan, LargestLogitSeesANanAnywhere) {
  for (const std::size_t place : {0U, 31U, 32U, 69U}) {
    std::vector<float> row = random_row(70, 1, 10);
    EXPECT_TRUE(largest_logit(row).is_ordered);
    EXPECT_EQ(largest_logit(row).value, *std::max_element(row.begin(), row.end()));
    for (const float sign : {1.0F, -1.0F}) {
      row[place] = std::copysign(std::numeric_limits<float>::quiet_NaN(), sign);
      EXPECT_FALSE(largest_logit(row).is_ordered) << place;
    }
  }
}

TEST(LogitScan, FirstEqualIsTheLowestId) {
  EXPECT_EQ(first_equal(std::vector<float>{1, 5, 2, 5}, 5), 1U);
  EXPECT_EQ(first_equal(std::vector<float>{-1.0F, -0.0F, 0.0F}, 0.0F), 1U);
  EXPECT_EQ(first_equal(std::vector<float>{1, 2}, 3), 2U);
}

TEST(LogitScan, WeightedSumWrapsModulo2To64) {
  const std::vector<std::int64_t> weights{-1, 3, 5};
  EXPECT_EQ(weighted_sum(std::vector<std::uint32_t>{0xffffffffU, 2, 1}, weights),
            ~std::uint64_t{0xffffffffU} + 1 + 6 + 5);
  EXPECT_EQ(weighted_sum(std::vector<std::uint16_t>{0xffffU, 2, 1}, weights),
            ~std::uint64_t{0xffffU} + 1 + 6 + 5);
}

TEST(LogitScan, SumsKeepWhatFloatsWouldLose) {
  std::vector<float> row(17, 1.0F);
  row[3] = 16777216.0F;  // 2^24, where float has no odd numbers
  EXPECT_EQ(sum_in_double(row), 16777216.0 + 16.0);
}

}  // namespace
}  // namespace kvtool::engine
