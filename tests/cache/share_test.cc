#include "kvtool/cache/share.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace kvtool::cache {
namespace {

Share share(const char* text) { return Share::parse(text).value(); }

TEST(Share, IsExactToAThousandthOfAPercent) {
  EXPECT_EQ(share("12.5%").to_string(), "12.5%");
  EXPECT_EQ(share("25.000%").to_string(), "25%");
  EXPECT_EQ(share("0.125%").to_string(), "0.125%");
  EXPECT_DOUBLE_EQ(share("12.5%").fraction(), 0.125);
  EXPECT_TRUE(share("100%").is_all());
  EXPECT_FALSE(share("99.999%").is_all());
  EXPECT_TRUE(share("0%").is_none());
  EXPECT_LT(share("12.5%"), share("12.501%"));
}

TEST(Share, RoundsUp) {
  EXPECT_EQ(share("12.5%").of(64), 8U);
  EXPECT_EQ(share("12.5%").of(65), 9U);
  EXPECT_EQ(share("0.001%").of(1), 1U);
  EXPECT_EQ(share("0%").of(5), 0U);
  EXPECT_EQ(share("100%").of(63), 63U);
  EXPECT_EQ(share("50%").of(std::uint64_t{1} << 62), std::uint64_t{1} << 61);
  EXPECT_EQ(share("0.001%").of((std::uint64_t{1} << 40) + 1), 10995117U);
}

TEST(Share, TheLeastIsAWholePercentThatSuffices) {
  EXPECT_EQ(Share::at_least(3, 4).to_string(), "51%");
  EXPECT_EQ(Share::at_least(3, 4).of(4), 3U);
  EXPECT_EQ(Share::at_least(1, 1000).to_string(), "1%");
  EXPECT_EQ(Share::at_least(7, 7).of(7), 7U);
  EXPECT_TRUE(Share::at_least(0, 7).is_none());
}

TEST(Share, RefusesWhatIsNoShare) {
  for (const char* text : {"25", "100.5%", "101%", "", "%", ".5%", ".%", "5.%", "1.2345%", "-5%",
                           "5 %", "x%", "1e2%", "25%%", "99999999999999999999%", "1.2.3%"}) {
    EXPECT_FALSE(Share::parse(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace kvtool::cache
