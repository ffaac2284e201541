#include "kvtool/cache/key_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/error_of.h"

namespace kvtool::cache {
namespace {

std::uint64_t seen(const char* spec, const QueryPlace& query) {
  return KeyBudget(CacheSpec::parse(spec)).seen(query);
}

TEST(QueryPlace, KnowsWhatItsLayerShows) {
  EXPECT_EQ((QueryPlace{9, 0}.visible()), 10U);
  EXPECT_EQ((QueryPlace{9, 20}.visible()), 10U);
  EXPECT_EQ((QueryPlace{9, 10}.first_visible()), 0U);
  EXPECT_EQ((QueryPlace{9, 4}.first_visible()), 6U);
  EXPECT_EQ((QueryPlace{9, 4}.visible()), 4U);
}

TEST(KeyBudget, OfAPolicyThatSelectsNothingIsEverything) {
  EXPECT_FALSE(KeyBudget(CacheSpec::parse("int8")).selects(5));
  EXPECT_EQ(seen("int8", {99, 0}), 100U);
  EXPECT_EQ(seen("int8", {99, 7}), 7U);
}

TEST(KeyBudget, OfAWindowIsSinksAndRecentPositions) {
  EXPECT_TRUE(KeyBudget(CacheSpec::parse("window")).selects(0));
  EXPECT_EQ(seen("window:sinks=4,recent=10", {13, 0}), 14U);
  EXPECT_EQ(seen("window:sinks=4,recent=10", {14, 0}), 14U);
  EXPECT_EQ(seen("window:sinks=4,recent=10", {1000, 0}), 14U);
  EXPECT_EQ(seen("window:sinks=0,recent=1", {1000, 0}), 1U);
  // In a window of 12, sinks 9 to 1000 positions away: 2 of them still in it, then none.
  EXPECT_EQ(seen("window:sinks=4,recent=10", {13, 12}), 12U);
  EXPECT_EQ(seen("window:sinks=4,recent=10", {14, 12}), 11U);
  EXPECT_EQ(seen("window:sinks=4,recent=10", {1000, 12}), 10U);
  EXPECT_EQ(seen("window:sinks=4,recent=10", {1000, 6}), 6U);
  // With positions of the cache the window of 12 hides 2 of the 14 keys that are left, for good.
  EXPECT_EQ(seen("window:sinks=4,recent=10,positions=cache", {13, 0}), 14U);
  EXPECT_EQ(seen("window:sinks=4,recent=10,positions=cache", {1000, 0}), 14U);
  EXPECT_EQ(seen("window:sinks=4,recent=10,positions=cache", {7, 12}), 8U);
  EXPECT_EQ(seen("window:sinks=4,recent=10,positions=cache", {14, 12}), 12U);
  EXPECT_EQ(seen("window:sinks=4,recent=10,positions=cache", {1000, 12}), 12U);
  EXPECT_EQ(seen("window:sinks=4,recent=10,positions=cache", {1000, 6}), 6U);
  EXPECT_EQ(seen("window:sinks=4,recent=10,positions=cache", {1000, 500}), 14U);
  EXPECT_EQ(seen("window:sinks=18446744073709551615,recent=18446744073709551615", {1000, 0}),
            1001U);
}

TEST(KeyBudget, OfPagesIsWhatIsAlwaysSeenAndTheBest) {
  const char* spec = "quest:page=10,budget=4,sinks=1,recent=2,dense=1";
  EXPECT_FALSE(KeyBudget(CacheSpec::parse(spec)).selects(0));
  EXPECT_TRUE(KeyBudget(CacheSpec::parse(spec)).selects(1));
  // 4 pages, then 5: of the page of the query as many keys as there are.
  EXPECT_EQ(seen(spec, {39, 0}), 40U);
  EXPECT_EQ(seen(spec, {40, 0}), 31U);
  EXPECT_EQ(seen(spec, {99, 0}), 40U);
  EXPECT_EQ(seen(spec, {1000, 0}), 31U);
  // In a window of 65 that begins at 35: pages 3 to 9, of which 3 is cut and not seen, and the
  // sink is out of reach, so that two are chosen.
  EXPECT_EQ(seen(spec, {99, 65}), 40U);
  // That begins at 5: 5 keys of the sink, and one page is chosen.
  EXPECT_EQ(seen(spec, {99, 95}), 35U);
  EXPECT_EQ(seen(spec, {99, 40}), 40U);
  EXPECT_EQ(seen(spec, {99, 31}), 31U);
}

TEST(KeyBudget, AShareIsOfThePagesOfTheInput) {
  const char* spec = "quest:page=10,budget=25%,sinks=1,recent=1";
  EXPECT_EQ(seen(spec, {199, 0}), 50U);
  EXPECT_EQ(seen(spec, {200, 0}), 51U);
  EXPECT_EQ(seen("quest:page=10,budget=100%,sinks=1,recent=1", {199, 0}), 200U);
  // Sinks and recent pages in any case, though 25 % of 5 pages are 2.
  EXPECT_EQ(seen("quest:page=10,budget=25%,sinks=2,recent=2", {49, 0}), 40U);
}

TEST(KeyBudget, RefusesLessThanWhatIsAlwaysSeen) {
  const auto refusal = [](const char* spec, std::uint64_t positions) {
    const KeyBudget budget(CacheSpec::parse(spec));
    const Error error = error_of([&] { budget.check(positions); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    return std::string(error.what());
  };
  EXPECT_EQ(
      refusal("quest:budget=2", 200),
      "kv_cache quest:page=16,budget=2,sinks=1,recent=2,dense=2,codec=none: at 200 positions, "
      "13 pages of 16, the budget is 2 pages, and 3 are seen in any case (sinks=1, "
      "recent=2): use budget=3 or more, or fewer sinks or recent pages");
  EXPECT_THAT(refusal("quest:budget=25%", 100), testing::HasSubstr("use budget=29% or more"));
  KeyBudget(CacheSpec::parse("quest:budget=29%")).check(100);
  EXPECT_THAT(refusal("quest:budget=28%", 100), testing::HasSubstr("use budget=29% or more"));
  KeyBudget(CacheSpec::parse("quest:budget=25%")).check(200);
  KeyBudget(CacheSpec::parse("quest:budget=2")).check(32);
  KeyBudget(CacheSpec::parse("window:sinks=9,recent=1")).check(2);
  KeyBudget(CacheSpec::parse("int8")).check(2);
}

TEST(KeyBudget, AWindowHidesForGoodWhatLiesBehindIt) {
  const auto evicted = [](const char* spec, std::uint64_t positions, std::uint64_t window = 0) {
    return KeyBudget(CacheSpec::parse(spec)).evicted(positions, window);
  };
  // The query at position 10 sees the keys 0, 1, 8, 9 and its own, that at 5 all but key 2.
  EXPECT_EQ(evicted("window:sinks=2,recent=3", 10), 6U);
  EXPECT_EQ(evicted("window:sinks=2,recent=3", 5), 1U);
  EXPECT_EQ(evicted("window:sinks=2,recent=3", 4), 0U);
  EXPECT_EQ(evicted("window:sinks=0,recent=1", 4), 4U);
  EXPECT_EQ(evicted("window:sinks=18446744073709551615,recent=18446744073709551615", 4), 0U);
  // A layer's own window hides as much, or it shows more.
  EXPECT_EQ(evicted("window:sinks=2,recent=3", 10, 3), 0U);
  EXPECT_EQ(evicted("window:sinks=2,recent=3", 10, 4), 6U);
  // What one query does not see the next one may.
  EXPECT_EQ(evicted("quest:page=1,budget=3,dense=0", 10), 0U);
  EXPECT_EQ(evicted("int8", 10), 0U);
}

}  // namespace
}  // namespace kvtool::cache
