#include "kvtool/base/setting.h"

#include <gtest/gtest.h>

#include "kvtool/base/error.h"

namespace kvtool {
namespace {

TEST(Setting, IsSpelledByTheDoorThatShowsTheMessage) {
  const std::string message = "it exists: " + setting("force") + " or another " + setting("out");
  EXPECT_EQ(spelled(message, [](std::string_view name) { return "--" + std::string(name); }),
            "it exists: --force or another --out");
  EXPECT_EQ(unmarked(message), "it exists: force or another out");
}

TEST(Setting, LeavesAMessageWithoutOneAsItIs) {
  EXPECT_EQ(unmarked("no \x1F end"), "no \x1F end");
  EXPECT_EQ(unmarked(""), "");
}

TEST(Setting, AnErrorShowsTheBareNameAndKeepsTheMark) {
  const Error error(ErrorCode::kUsage, "give " + setting("out"));
  EXPECT_STREQ(error.what(), "give out");
  EXPECT_EQ(error.message(), "give " + setting("out"));
}

}  // namespace
}  // namespace kvtool
