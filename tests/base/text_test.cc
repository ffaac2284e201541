#include "kvtool/base/text.h"

#include <gtest/gtest.h>

namespace kvtool {
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

TEST(Printable, EscapesEveryDirectionChange) {
  EXPECT_EQ(printable("\xD8\x9C"), "\\u{61c}");  // Arabic letter mark
  EXPECT_EQ(printable("\xE2\x81\xA6"), "\\u{2066}");
}

TEST(EscapeMarkdown, LeavesNoMarkup) {
  EXPECT_EQ(escape_markdown("a|b`c`*d*_e_~f~"),
            "a&#124;b&#96;c&#96;&#42;d&#42;&#95;e&#95;&#126;f&#126;");
  EXPECT_EQ(escape_markdown("<script>&amp;"), "&#60;script&#62;&#38;amp;");
  EXPECT_EQ(escape_markdown("[l](u) $x$"), "&#91;l&#93;(u) &#36;x&#36;");
}

TEST(EscapeMarkdown, IsOneLine) {
  EXPECT_EQ(escape_markdown("a\n\n1. b\r"), "a&#92;n&#92;n1. b&#92;r");
}

TEST(EscapeMarkdown, BreaksWhatGithubWouldLink) {
  EXPECT_EQ(escape_markdown("@user"), "&#64;&#8203;user");
  EXPECT_EQ(escape_markdown("#12"), "&#35;&#8203;12");
  EXPECT_EQ(escape_markdown("http://a.b"), "http:&#8203;//a.b");
  EXPECT_EQ(escape_markdown("WwW.a"), "WwW&#8203;.a");
  EXPECT_EQ(escape_markdown("a: b. 0.5"), "a: b. 0.5");
}

TEST(EscapeMarkdown, MakesBytesPrintableFirst) {
  EXPECT_EQ(escape_markdown("\x1b[2J\xFF"), "&#92;x1b&#91;2J&#92;xff");
}

TEST(XmlText, HoldsOnlyWhatXmlAllows) {
  EXPECT_EQ(xml_text(std::string("a\0b\x0b\x1b", 5)), "a\\x00b\\x0b\\x1b");
  EXPECT_EQ(xml_text("\xEF\xBF\xBE\xEF\xBF\xBFx"), "\\u{fffe}\\u{ffff}x");
  EXPECT_EQ(xml_text("<&]]>\n世界"), "<&]]>\n世界");
  EXPECT_EQ(xml_text("\xED\xA0\x80"), "\\xed\\xa0\\x80");
}

TEST(DisplayColumns, CountsWideAndCombiningCharacters) {
  EXPECT_EQ(display_columns("abc"), 3U);
  EXPECT_EQ(display_columns("世界"), 4U);
  EXPECT_EQ(display_columns("e\xCC\x81"), 1U);
  EXPECT_EQ(display_columns("\x1b[31mab\x1b[0m"), 2U);
}

TEST(Wrapped, BreaksAtSpaces) {
  EXPECT_EQ(wrapped("one two three", 7), "one two\nthree");
  EXPECT_EQ(wrapped("one two three", 8), "one two\nthree");
  EXPECT_EQ(wrapped("one two three", 13), "one two three");
}

TEST(Wrapped, BreaksWordsThatAreTooLong) {
  EXPECT_EQ(wrapped("abcdef", 4), "abcd\nef");
  EXPECT_EQ(wrapped("世界世", 4), "世界\n世");
}

TEST(Wrapped, HangsTheLinesOfABreakOnly) {
  EXPECT_EQ(wrapped("one two\nthree four", 6, 2), "one\n  two\nthree\n  four");
}

TEST(Wrapped, DoesNotBreakAtItsIndentation) {
  EXPECT_EQ(wrapped("    abcdefgh", 8, 4), "    abcd\n    efgh");
}

TEST(Wrapped, ColorsTakeNoColumn) {
  EXPECT_EQ(wrapped("\x1b[31mone\x1b[0m two", 7), "\x1b[31mone\x1b[0m two");
}

TEST(Wrapped, EndsForNoColumnsAtAll) { EXPECT_EQ(wrapped("ab", 0, 3), "a\n   b"); }

TEST(Indented, IndentsEveryLine) { EXPECT_EQ(indented("a\nb", 2), "  a\n  b"); }

TEST(Counted, AddsThePlural) {
  EXPECT_EQ(counted(1, "input"), "1 input");
  EXPECT_EQ(counted(0, "input"), "0 inputs");
}

}  // namespace
}  // namespace kvtool
