#include "kvtool/cache/paged_settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kvtool/cache/key_budget.h"
#include "support/error_of.h"

namespace kvtool::cache {
namespace {

// One layer: 2 heads of 8 + 8 numbers of two bytes, 64 bytes a position.
format::Geometry small_geometry() {
  return format::Geometry({{DType::kBFloat16, DType::kBFloat16, 2, 8, 8}});
}

std::uint64_t frames(const std::string& device, const BatchExtent& batch) {
  const CacheSpec spec = CacheSpec::parse("paged:page=16,device=" + device);
  return paged_settings(spec).frames(small_geometry(), batch);
}

TEST(PagedSettings, RoomIsPagesBytesOrAShare) {
  const BatchExtent batch{.rows = 2, .positions = 150};  // 10 pages each, the last not whole
  EXPECT_EQ(frames("100%", batch), 10U);
  EXPECT_EQ(frames("25%", batch), 3U);
  EXPECT_EQ(frames("8", batch), 4U);
  EXPECT_EQ(frames("9", batch), 4U);
  EXPECT_EQ(frames("1000", batch), 10U);
  // A page is 16 * 64 bytes.
  EXPECT_EQ(frames("6K", batch), 3U);
}

TEST(PagedSettings, RefusesTooLittleRoomAndNamesTheLeast) {
  const BatchExtent batch{.rows = 3, .positions = 150};
  const Error error = error_of([&] { std::ignore = frames("5", batch); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), testing::HasSubstr("room for 1 pages of each of 3 inputs"));
  EXPECT_THAT(error.what(), testing::HasSubstr("at least 6 pages, that is 6144 bytes of a layer"));
  EXPECT_EQ(frames("6", batch), 2U);
  // One page is everything.
  EXPECT_EQ(frames("3", {.rows = 3, .positions = 16}), 1U);
}

TEST(PagedSettings, RoomInBytesHoldsMorePagesOfACodec) {
  const auto frames_of = [](const std::string& options, std::uint64_t positions) {
    return paged_settings(CacheSpec::parse("paged:device=8K," + options))
        .frames(small_geometry(), {.rows = 2, .positions = positions});
  };
  EXPECT_EQ(frames_of("page=32,codec=none", 1000), 2U);
  // 2 heads of 8 + 4 bytes, K and V: 48 instead of 64.
  EXPECT_EQ(frames_of("page=32,codec=int8", 1000), 2U);
  EXPECT_EQ(frames_of("page=16,codec=int8", 1000), 5U);
  EXPECT_EQ(frames_of("page=32,codec=fp8", 1000), 4U);
  // 2 heads of 4 + 4 bytes and 3 for the scale of V, and once for 32 positions 8 * 3 for K: 23.5.
  EXPECT_EQ(frames_of("page=32,codec=kivi4", 1000), 5U);
  // Of 200 positions 64 are in groups, and those are all pages.
  EXPECT_EQ(frames_of("page=32,codec=kivi4", 200), 2U);
}

TEST(PagedSettings, APageHoldsWholeGroups) {
  const Error error = error_of([] { std::ignore = CacheSpec::parse("paged:page=16,codec=kivi4"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), testing::HasSubstr("with codec=kivi4 'page' is a multiple of 32"));
}

TEST(PagedSettings, WhatSelectsHasABudget) {
  const CacheSpec spec = CacheSpec::parse("paged:page=64,device=25%,codec=kivi4,select=quest");
  EXPECT_EQ(spec.to_string(),
            "paged:page=64,device=25%,residency=lru,link=none,check=0,codec=kivi4,select=quest,"
            "budget=64,sinks=1,recent=2,dense=2");
  EXPECT_EQ(KeyBudget(spec).selection(), "quest");
  EXPECT_TRUE(KeyBudget(spec).selects_pages());
  EXPECT_FALSE(KeyBudget(CacheSpec::parse("paged")).selects(9));
  const Error error = error_of([] { std::ignore = CacheSpec::parse("paged:budget=7"); });
  EXPECT_THAT(error.what(), testing::HasSubstr("'budget' does nothing with select=none"));
}

TEST(PagedSettings, RefusesPagesOfNothing) {
  const Error error = error_of([] { std::ignore = CacheSpec::parse("paged:page=0"); });
  EXPECT_THAT(error.what(), testing::HasSubstr("'page' is from 1 to"));
}

TEST(PagedSettings, TheSpecReadsBack) {
  const CacheSpec spec = CacheSpec::parse("paged:device=256M,link=16,residency=lru2");
  EXPECT_EQ(spec.to_string(),
            "paged:page=16,device=256M,residency=lru2,link=16,check=0,codec=none,select=none");
  EXPECT_EQ(CacheSpec::parse(spec.to_string()), spec);
  EXPECT_EQ(paged_settings(spec).device, (Room{Room::Unit::kBytes, 256U << 20}));
  EXPECT_EQ(paged_settings(spec).link_gigabytes, 16.0);
  EXPECT_THAT(error_of([] { std::ignore = CacheSpec::parse("paged:device=x"); }).what(),
              testing::HasSubstr("'device' takes a number of pages, of bytes with a suffix"));
}

TEST(PagedSettings, PredictionHasOptionsOfItsOwn) {
  const std::string text = "residency=predictive,rank=mass,prefetch=7,precision=80%";
  const PredictionSettings given = paged_settings(CacheSpec::parse("paged:" + text)).prediction;
  EXPECT_EQ(given.rank, PageRank::kMass);
  EXPECT_EQ(given.prefetch, 7U);
  EXPECT_EQ(given.precision, 0.8);
  EXPECT_EQ(
      CacheSpec::parse("paged:residency=predictive").to_string(),
      "paged:page=16,device=100%,residency=predictive,rank=confidence,prefetch=4,precision=50%,"
      "link=none,check=0,codec=none,select=none");
  const Error error = error_of([] { std::ignore = CacheSpec::parse("paged:prefetch=7"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(),
              testing::HasSubstr("'prefetch' does nothing without residency=predictive"));
}

}  // namespace
}  // namespace kvtool::cache
