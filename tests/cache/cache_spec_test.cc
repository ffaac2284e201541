#include "kvtool/cache/cache_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "support/error_of.h"

namespace kvtool::cache {
namespace {

constexpr std::array<std::string_view, 2> kPlaces = {"host", "disk"};
constexpr std::array kPagedOptions = {
    OptionInfo{"page", OptionKind::kCount, "positions of a page", "16"},
    OptionInfo{"device", OptionKind::kBytes, "bytes on the device", ""},
    OptionInfo{"resident", OptionKind::kShare, "pages on the device", "100%"},
    OptionInfo{"spill", OptionKind::kWord, "where the others are", "host", kPlaces},
    OptionInfo{"seen", OptionKind::kPart, "pages, or a share of them", "", {}, 1},
    OptionInfo{"path", OptionKind::kCount, "of a disk", "7", {}, 0, {"spill", "disk"}},
    OptionInfo{
        "pin", OptionKind::kCount, "of anything but a disk", "", {}, 0, {"spill", "disk", true}},
};
constexpr std::array kKnown = {
    PolicyInfo{"plain", "no options", {}},
    PolicyInfo{"paged", "pages", {}, kPagedOptions},
};

CacheSpec parse(std::string_view text) { return CacheSpec::parse(text, kKnown); }

std::string refusal(std::string_view text) {
  const Error error = error_of([&] { std::ignore = parse(text); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage) << text;
  return error.what();
}

TEST(CacheSpec, DefaultIsContiguous) {
  EXPECT_EQ(CacheSpec().to_string(), "contiguous");
  EXPECT_EQ(CacheSpec(), CacheSpec::parse("contiguous"));
}

TEST(CacheSpec, EveryPolicyOfTheTableIsItsOwnName) {
  for (const PolicyInfo& policy : policies()) {
    const CacheSpec spec = CacheSpec::parse(policy.name);
    EXPECT_EQ(spec.policy(), policy.name);
    EXPECT_EQ(CacheSpec::parse(spec.to_string()), spec);
    EXPECT_FALSE(policy.summary.empty());
  }
}

TEST(CacheSpec, SaysEveryValueInTheOrderOfTheTable) {
  const CacheSpec spec = parse("paged:spill=disk,device=1024M,page=32");
  EXPECT_EQ(spec.to_string(), "paged:page=32,device=1G,resident=100%,spill=disk,path=7");
  EXPECT_EQ(spec.number("page"), 32U);
  EXPECT_EQ(spec.number("device"), std::uint64_t{1} << 30);
  EXPECT_EQ(spec.share("resident"), Share::all());
  EXPECT_EQ(spec.word("spill"), "disk");
  EXPECT_EQ(parse(spec.to_string()), spec);
}

TEST(CacheSpec, AnOptionIsThereWhereAnotherSaysSo) {
  EXPECT_FALSE(parse("paged").has("path"));
  EXPECT_EQ(parse("paged:path=3,spill=disk").number("path"), 3U);
  EXPECT_EQ(parse("paged:pin=1").number("pin"), 1U);
  EXPECT_EQ(refusal("paged:path=3"),
            "cache 'paged:path=3', character 7: 'path' does nothing without spill=disk");
  EXPECT_EQ(refusal("paged:page=4,pin=1,spill=disk"),
            "cache 'paged:page=4,pin=1,spill=disk', character 14: 'pin' does nothing with "
            "spill=disk: give another 'spill', too, or leave it out");
}

TEST(CacheSpec, FillsInFallbacksAndLeavesOutWhatHasNone) {
  const CacheSpec spec = parse("paged");
  EXPECT_EQ(spec.to_string(), "paged:page=16,resident=100%,spill=host");
  EXPECT_EQ(error_of([&] { std::ignore = spec.number("device"); }).code(), ErrorCode::kMisuse);
}

// What recordings were made with before there was the option.
TEST(CacheSpec, TheFallbackOfALaterOptionIsNotNamed) {
  const CacheSpec before = CacheSpec::parse("window:sinks=2,recent=9,codec=int8");
  EXPECT_EQ(before.to_string(), "window:sinks=2,recent=9,codec=int8");
  EXPECT_EQ(before.word("positions"), "original");
  EXPECT_EQ(before, CacheSpec::parse("window:positions=original,sinks=2,recent=9,codec=int8"));
  const CacheSpec other = CacheSpec::parse("window:sinks=2,recent=9,codec=int8,positions=cache");
  EXPECT_EQ(other.to_string(), "window:sinks=2,recent=9,positions=cache,codec=int8");
  EXPECT_EQ(CacheSpec::parse(other.to_string()), other);
  EXPECT_NE(before, other);
}

TEST(CacheSpec, IsEqualWhereTheCachesAre) {
  EXPECT_EQ(parse("paged:device=1G"), parse("paged:device=1073741824,page=16"));
  EXPECT_NE(parse("paged:page=16"), parse("paged:page=17"));
  EXPECT_NE(parse("paged"), parse("plain"));
}

TEST(CacheSpec, BytesKeepTheLargestExactSuffix) {
  const auto device = [](std::string_view text) {
    return parse("paged:device=" + std::string(text)).word("device");
  };
  EXPECT_EQ(device("0"), "0");
  EXPECT_EQ(device("1000"), "1000");
  EXPECT_EQ(device("1536K"), "1536K");
  EXPECT_EQ(device("2048K"), "2M");
  EXPECT_EQ(device("3T"), "3T");
}

TEST(CacheSpec, NamesTheNearestPolicyAndTheOthers) {
  EXPECT_EQ(refusal("pagd"),
            "cache 'pagd', character 1: no cache policy is called 'pagd'; did you mean 'paged'? "
            "(there are plain, paged)");
  EXPECT_THAT(refusal(""), testing::HasSubstr("no cache policy is called ''"));
  EXPECT_THAT(refusal("Paged"), testing::HasSubstr("did you mean 'paged'?"));
  EXPECT_THAT(refusal(" paged"), testing::HasSubstr("character 1"));
}

TEST(CacheSpec, NamesThePlaceAndTheNearestOption) {
  EXPECT_EQ(refusal("paged:page=8,devise=1G"),
            "cache 'paged:page=8,devise=1G', character 14: paged has no option 'devise'; did you "
            "mean 'device'? (there are page, device, resident, spill, seen, path, pin)");
  EXPECT_EQ(refusal("plain:page=8"), "cache 'plain:page=8', character 7: plain takes no options");
  EXPECT_THAT(refusal("paged:"), testing::HasSubstr("character 7: paged has no option ''"));
  EXPECT_THAT(refusal("paged:page=8,"), testing::HasSubstr("character 14"));
}

TEST(CacheSpec, NamesTheValueThatIsMissingOrGivenTwice) {
  EXPECT_EQ(refusal("paged:page"),
            "cache 'paged:page', character 11: 'page' needs a value: page=...");
  EXPECT_EQ(refusal("paged:page=8,page=9"),
            "cache 'paged:page=8,page=9', character 14: 'page' is given twice");
}

TEST(CacheSpec, RefusesValuesOfAnotherKind) {
  EXPECT_EQ(refusal("paged:page=x"),
            "cache 'paged:page=x', character 12: 'page' takes a whole number, not 'x'");
  for (const char* wrong :
       {"page=", "page=-1", "page= 1", "page=16K", "page=1.5", "page=18446744073709551616",
        "device=K", "device=1k", "device=1KB", "device=16777216T", "resident=80", "resident=101%",
        "resident=%", "spill=", "spill=8"}) {
    EXPECT_THAT(refusal(std::string("paged:") + wrong), testing::HasSubstr("character "));
  }
  EXPECT_THAT(refusal("paged:spill=dsik"), testing::HasSubstr("did you mean 'disk'?"));
}

TEST(CacheSpec, APartIsACountOrAShare) {
  EXPECT_FALSE(parse("paged").has("seen"));
  EXPECT_FALSE(parse("paged").has("nothing"));
  const CacheSpec share = parse("paged:seen=25%");
  EXPECT_TRUE(share.is_share("seen"));
  EXPECT_EQ(share.share("seen"), Share::parse("25%"));
  EXPECT_EQ(CacheSpec::parse("quest:budget=12.50%").word("budget"), "12.5%");
  EXPECT_EQ(parse(share.to_string()), share);
  const CacheSpec count = parse("paged:seen=025");
  EXPECT_TRUE(count.has("seen"));
  EXPECT_FALSE(count.is_share("seen"));
  EXPECT_EQ(count.number("seen"), 25U);
  EXPECT_NE(count, share);
  EXPECT_EQ(refusal("paged:seen=101%"),
            "cache 'paged:seen=101%', character 12: 'seen' takes a whole number, or a share from "
            "0% to 100%, such as 25% or 12.5%, not '101%'");
  EXPECT_EQ(refusal("paged:seen=0"), "cache 'paged:seen=0', character 12: 'seen' is at least 1");
  EXPECT_EQ(refusal("paged:seen=0%"), "cache 'paged:seen=0%', character 12: 'seen' is above 0%");
}

TEST(CacheSpec, LayersAreAllOrRanges) {
  const CacheSpec some = CacheSpec::parse("kivi:layers=9+2-3+4");
  EXPECT_EQ(some.word("layers"), "2-4+9");
  EXPECT_EQ(CacheSpec::parse(some.to_string()), some);
  // Recordings from before there was a choice are of the same cache.
  EXPECT_EQ(CacheSpec::parse("kivi:layers=all").to_string(),
            "kivi:k=4,v=4,group=32,residual=128,sinks=0");
  EXPECT_THAT(error_of([] { std::ignore = CacheSpec::parse("kivi:layers=4-2"); }).what(),
              testing::HasSubstr("character 13: 'layers' takes all, or layers from 0 on, such as 5 "
                                 "or 2-13+16, not '4-2'"));
}

TEST(CacheSpec, TakesTheLargestBytesThatThereAre) {
  EXPECT_EQ(parse("paged:device=16777215T").number("device"), 16777215ULL << 40);
  EXPECT_EQ(parse("paged:device=18446744073709551615").number("device"), ~std::uint64_t{0});
}

TEST(CacheSpec, AScaleIsAWordOrANumberAboveZero) {
  const auto scale = [](const std::string& text) { return CacheSpec::parse("fp8:scale=" + text); };
  EXPECT_EQ(scale("prefill").scale("scale"), std::nullopt);
  EXPECT_EQ(scale("0.25").scale("scale"), 0.25);
  EXPECT_EQ(scale("1e-3").to_string(), "fp8:type=e4m3,per=head,scale=0.001");
  EXPECT_EQ(scale("0.001"), scale("1e-3"));
  for (const char* wrong : {"0", "-1", "inf", "nan", "1x", "", "1e999"}) {
    const Error error = error_of([&] { std::ignore = scale(wrong); });
    EXPECT_THAT(error.what(), testing::HasSubstr("(there are prefill, and numbers above 0)"));
  }
  EXPECT_THAT(error_of([&] { std::ignore = scale("prefil"); }).what(),
              testing::HasSubstr("did you mean 'prefill'?"));
}

}  // namespace
}  // namespace kvtool::cache
