#include "kvtool/base/nearest.h"

#include <gtest/gtest.h>

#include <vector>

namespace kvtool {
namespace {

const std::vector<std::string> kNames = {"save", "save_mode", "load", "load_from_device"};

TEST(EditDistance, CountsChanges) {
  EXPECT_EQ(edit_distance("", "abc"), 3U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(edit_distance("save", "svae"), 1U);
  EXPECT_EQ(edit_distance("same", "same"), 0U);
}

TEST(Nearest, FindsLikelyMisspellings) {
  EXPECT_EQ(nearest("savemode", kNames), "save_mode");
  EXPECT_EQ(nearest("LOAD", kNames), "load");
  EXPECT_EQ(nearest("load_form_device", kNames), "load_from_device");
}

TEST(Nearest, SuggestsNothingFarAway) {
  EXPECT_EQ(nearest("temperature", kNames), "");
  EXPECT_EQ(suggestion("temperature", kNames), "");
  EXPECT_EQ(suggestion("sav", kNames), "; did you mean 'save'?");
}

}  // namespace
}  // namespace kvtool
