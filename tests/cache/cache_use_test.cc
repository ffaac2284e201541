#include "kvtool/cache/cache_use.h"

#include <gtest/gtest.h>

namespace kvtool::cache {
namespace {

TEST(CacheUse, AddsNumbersAndPlaces) {
  CacheUse sum{5, 8, 1, 2, 3, {{"cpu", 2, 3}}, 4, 5, 6, false, 7, 1, 8, 9, 10};
  sum += CacheUse{6,  7,
                  10, 20,
                  30, {{"cuda:0", 15, 16}, {"cpu", 5, 6}},
                  40, 50,
                  60, true,
                  70, 10,
                  80, 90,
                  3,  {.demands = 7}};
  // Of lengths, and of the most that one query could see, there is no sum.
  EXPECT_EQ(sum, (CacheUse{6,
                           8,
                           11,
                           22,
                           33,
                           {{"cpu", 7, 9}, {"cuda:0", 15, 16}},
                           44,
                           55,
                           66,
                           true,
                           77,
                           11,
                           88,
                           99,
                           10,
                           {.demands = 7}}));
}

TEST(CacheUse, SaysHowFullItIs) {
  CacheUse use;
  EXPECT_EQ(use.usage(), 0.0);
  use.length = 3;
  use.capacity = 12;
  EXPECT_EQ(use.usage(), 0.25);
}

}  // namespace
}  // namespace kvtool::cache
