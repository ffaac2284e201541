#include "kvtool/analysis/ulp_histogram.h"

#include <gtest/gtest.h>

#include <vector>

namespace kvtool::analysis {
namespace {

TEST(UlpHistogram, IsExactBelowSixteenAndQuarteredAbove) {
  const auto bucket_end = [](std::uint32_t distance) {
    UlpHistogram histogram;
    histogram.add(distance);
    return histogram.quantile(1.0);
  };
  for (std::uint32_t distance = 0; distance < 16; ++distance) {
    EXPECT_EQ(bucket_end(distance), distance);
  }
  EXPECT_EQ(bucket_end(16), 19.0);
  EXPECT_EQ(bucket_end(19), 19.0);
  EXPECT_EQ(bucket_end(20), 23.0);
  EXPECT_EQ(bucket_end(31), 31.0);
  EXPECT_EQ(bucket_end(32), 39.0);
  EXPECT_EQ(bucket_end(0xffffff), 0xffffff);
  EXPECT_EQ(bucket_end(0x1000000), 0x13fffff);
  EXPECT_EQ(bucket_end(0xfffffffe), 0xffffffff);
}

TEST(UlpHistogram, ListsAndCountsGiveTheSame) {
  const std::vector<std::uint32_t> distances{0, 0, 3, 17, 70000, 3, 4000000000U};
  UlpHistogram listed;
  listed.add(distances);
  UlpHistogram counted;
  for (const std::uint32_t distance : distances) counted.add(distance);
  UlpHistogram joined;
  joined.add(listed);
  joined.add(counted);
  EXPECT_EQ(joined.total(), 14U);
  for (const double q : {0.1, 0.28, 0.3, 0.5, 0.6, 0.8, 0.95, 1.0}) {
    EXPECT_EQ(listed.quantile(q), counted.quantile(q)) << q;
    EXPECT_EQ(joined.quantile(q), counted.quantile(q)) << q;
  }
  EXPECT_EQ(counted.quantile(0.28), 0.0);
  EXPECT_EQ(counted.quantile(0.5), 3.0);
}

TEST(UlpHistogram, EmptyHasTheQuantileZero) {
  EXPECT_EQ(UlpHistogram().quantile(0.99), 0.0);
  EXPECT_EQ(UlpHistogram().total(), 0U);
}

}  // namespace
}  // namespace kvtool::analysis
