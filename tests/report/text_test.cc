#include "kvtool/report/text.h"

#include <gtest/gtest.h>

namespace kvtool::report {
namespace {

TEST(Printable, KeepsTextAndNewlines) {
  EXPECT_EQ(printable("Grüße, 世界 🌍\n"), "Grüße, 世界 🌍\n");
}

TEST(Printable, EscapesControlCharacters) {
  EXPECT_EQ(printable("a\x1b[2Jb\r\t\x7f\x01"), "a\\x1b[2Jb\\r\\t\\x7f\\x01");
  EXPECT_EQ(printable("\xC2\x9B"), "\\u{9b}");        // C1
  EXPECT_EQ(printable("\xE2\x80\xAE"), "\\u{202e}");  // right-to-left override
  EXPECT_EQ(printable("a\nb", Newlines::kEscape), "a\\nb");
}

TEST(Printable, ShowsInvalidBytes) {
  EXPECT_EQ(printable("\xE2\x82"), "\\xe2\\x82");  // cut euro sign
  EXPECT_EQ(printable("\xFF\x41"), "\\xffA");
  EXPECT_EQ(printable("\xC0\x80"), "\\xc0\\x80");           // overlong
  EXPECT_EQ(printable("\xED\xA0\x80"), "\\xed\\xa0\\x80");  // surrogate
  EXPECT_EQ(printable("\xF4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
}

TEST(ValidUtf8, ReplacesInvalidBytes) {
  EXPECT_EQ(valid_utf8("a\xE2\x82"), "a\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(valid_utf8("世界"), "世界");
}

TEST(Shortened, CutsBetweenCharacters) {
  EXPECT_EQ(shortened("世界世界", 4), "世界世界");
  EXPECT_EQ(shortened("世界世界", 3), "世界…");
  EXPECT_EQ(shortened("", 3), "");
}

TEST(Indented, IndentsEveryLine) { EXPECT_EQ(indented("a\nb", 2), "  a\n  b"); }

TEST(Counted, AddsThePlural) {
  EXPECT_EQ(counted(1, "input"), "1 input");
  EXPECT_EQ(counted(0, "input"), "0 inputs");
}

}  // namespace
}  // namespace kvtool::report
