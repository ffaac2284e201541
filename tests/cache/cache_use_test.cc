#include "kvtool/cache/cache_use.h"

#include <gtest/gtest.h>

namespace kvtool::cache {
namespace {

TEST(CacheUse, AddsNumbersAndPlaces) {
  CacheUse sum{1, 2, 3, {{"cpu", 2}}, 4, 5};
  sum += CacheUse{10, 20, 30, {{"cuda:0", 15}, {"cpu", 5}}, 40, 50};
  EXPECT_EQ(sum, (CacheUse{11, 22, 33, {{"cpu", 7}, {"cuda:0", 15}}, 44, 55}));
}

}  // namespace
}  // namespace kvtool::cache
