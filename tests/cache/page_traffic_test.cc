#include "kvtool/cache/page_traffic.h"

#include <gtest/gtest.h>

namespace kvtool::cache {
namespace {

TEST(PageTraffic, RatesAreTheirDefinitions) {
  const PageTraffic pages{.demands = 100,
                          .hits = 70,
                          .inner_demands = 80,
                          .inner_hits = 52,
                          .late = 5,
                          .prefetched = 40,
                          .prefetch_hits = 20};
  EXPECT_EQ(pages.misses(), 25U);
  EXPECT_EQ(pages.hit_rate(), 0.7);
  EXPECT_EQ(pages.inner_hit_rate(), 0.65);
  EXPECT_EQ(pages.precision(), 0.5);
  EXPECT_EQ(pages.coverage(), 20.0 / 45.0);
  EXPECT_EQ(pages.timeliness(), 0.75);
}

TEST(PageTraffic, OfNothingThereIsNoRate) {
  const PageTraffic pages;
  for (const auto& rate : {pages.hit_rate(), pages.inner_hit_rate(), pages.precision(),
                           pages.coverage(), pages.timeliness()}) {
    EXPECT_EQ(rate, std::nullopt);
  }
  EXPECT_EQ(pages.waited_seconds(), 0.0);
}

// Where nothing was fetched ahead, not all misses are those of a prediction.
TEST(PageTraffic, WithoutPredictionThereIsNoCoverage) {
  EXPECT_EQ((PageTraffic{.demands = 9, .hits = 3}.coverage()), std::nullopt);
}

TEST(PageTraffic, WhatOneOfTwoDidNotMeasureHasNoSum) {
  PageTraffic sum{.demands = 3,
                  .hits = 1,
                  .late = 1,
                  .wasted_bytes = 7,
                  .miss_seconds = 0.5,
                  .late_seconds = 0.25,
                  .write_seconds = 1.0};
  EXPECT_EQ(sum.waited_seconds(), 1.75);
  sum += sum;
  EXPECT_EQ(sum.demands, 6U);
  EXPECT_EQ(sum.late, 2U);
  EXPECT_EQ(sum.wasted_bytes, 14U);
  EXPECT_EQ(sum.waited_seconds(), 3.5);
  sum += PageTraffic{.demands = 1,
                     .late = std::nullopt,
                     .miss_seconds = std::nullopt,
                     .late_seconds = std::nullopt,
                     .write_seconds = std::nullopt};
  EXPECT_EQ(sum.demands, 7U);
  EXPECT_EQ(sum.late, std::nullopt);
  EXPECT_EQ(sum.waited_seconds(), std::nullopt);
  EXPECT_EQ(sum.timeliness(), std::nullopt);
}

}  // namespace
}  // namespace kvtool::cache
