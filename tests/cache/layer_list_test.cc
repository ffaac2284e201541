#include "kvtool/cache/layer_list.h"

#include <gtest/gtest.h>

#include <string>

namespace kvtool::cache {
namespace {

std::string canonical(const std::string& text) {
  const std::optional<LayerList> list = LayerList::parse(text);
  return list ? list->to_string() : "refused";
}

TEST(LayerList, WritesRangesInOrderAndTogether) {
  EXPECT_EQ(canonical("all"), "all");
  EXPECT_EQ(canonical("5"), "5");
  EXPECT_EQ(canonical("2-13+16"), "2-13+16");
  EXPECT_EQ(canonical("16+2-13"), "2-13+16");
  EXPECT_EQ(canonical("0-3+4+2-9"), "0-9");
  EXPECT_EQ(canonical("7-7"), "7");
}

TEST(LayerList, RefusesWhatIsNoLayers) {
  for (const char* text : {"", "some", "3-", "-3", "5-4", "1+", "+1", "1++2", "1.5", "-1", "all+1",
                           "99999999999999999999", "4294967296"}) {
    EXPECT_EQ(canonical(text), "refused") << text;
  }
}

TEST(LayerList, KnowsItsLayers) {
  const LayerList some = LayerList::parse("2-4+9").value();
  EXPECT_FALSE(some.is_all());
  EXPECT_FALSE(some.contains(1));
  EXPECT_TRUE(some.contains(2));
  EXPECT_TRUE(some.contains(4));
  EXPECT_FALSE(some.contains(5));
  EXPECT_TRUE(some.contains(9));
  EXPECT_EQ(some.last(), 9U);
  EXPECT_TRUE(LayerList().is_all());
  EXPECT_TRUE(LayerList().contains(1000));
}

}  // namespace
}  // namespace kvtool::cache
