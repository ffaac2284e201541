#include "kvtool/cache/cache_use.h"

#include <gtest/gtest.h>

namespace kvtool::cache {
namespace {

TEST(CacheUse, AddsNumbersAndPlaces) {
  CacheUse sum{1, 2, 3, {{"cpu", 2}}, 4, 5, 6, false, 7, 8, 9, 10};
  sum += CacheUse{10, 20, 30, {{"cuda:0", 15}, {"cpu", 5}}, 40, 50, 60, true, 70, 80, 90, 3};
  // Of the most that one query could see there is no sum.
  EXPECT_EQ(sum,
            (CacheUse{11, 22, 33, {{"cpu", 7}, {"cuda:0", 15}}, 44, 55, 66, true, 77, 88, 99, 10}));
}

}  // namespace
}  // namespace kvtool::cache
