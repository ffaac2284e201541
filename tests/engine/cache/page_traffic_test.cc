// What a paged cache says of the pages that its steps read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "engine/cache/paging/paged_cache.h"

namespace kvtool::engine {
namespace {

constexpr std::int64_t kPage = 3;
constexpr std::int64_t kPrompt = 12;
constexpr std::int64_t kEnd = 40;

// One input of two layers that see everything.
class PageTraffic : public testing::Test {
 protected:
  PageTraffic() { at::manual_seed(5); }

  std::unique_ptr<PagedCache> make(std::int64_t frames, const std::string& residency) const {
    const cache::PagedSettings settings =
        cache::paged_settings(cache::CacheSpec::parse("paged:page=3,residency=" + residency));
    return std::make_unique<PagedCache>(settings, frames, layout_, shape_, at::kCPU);
  }

  std::unique_ptr<PageStore> store_of_four_pages(const std::string& options) const {
    const cache::PagedSettings settings =
        cache::paged_settings(cache::CacheSpec::parse("paged:page=3," + options));
    auto store =
        std::make_unique<PageStore>(settings, PageStore::Room{2, 4}, *format_, 2, 1, at::kCPU);
    const LayerKv rows{at::randn({2, kPage, 8}), at::randn({2, kPage, 6})};
    for (std::int64_t page = 0; page < 4; ++page) {
      store->fetch({1, 0, page}, none_, page);
      store->write(1, 0, {kPage * page, kPage}, rows);
      store->save({1, 0, page});
    }
    return store;
  }

  // Page 0 for page 3; page 1 stays behind.
  void fetch_one_ahead(PageStore& store) const {
    const std::vector<cache::PageScore> step{
        {0, 0.5, false}, {1, 0.125, false}, {2, 0.25, true}, {3, 0.0625, true}};
    store.observe(1, 0, step);
    store.fetch_ahead(1, 0, none_, 17);
    ASSERT_EQ(store.traffic().prefetched, 1U);
  }

  void run(KvCache& cache) const {
    pass(cache, 0, kPrompt);
    for (std::int64_t slot = kPrompt; slot < kEnd; ++slot) pass(cache, slot, 1);
  }

  static void pass(KvCache& cache, std::int64_t first, std::int64_t count) {
    cache.begin({first, count});
    const std::optional<at::Tensor> sinks;
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      std::ignore = cache.attend({at::randn({1, 4, count, 8}), at::randn({1, 2, count, 8}),
                                  at::randn({1, 2, count, 6}), layer, 0.3, 0, 0.0, sinks});
    }
    cache.end();
  }

  std::vector<std::int32_t> tokens_ = std::vector<std::int32_t>(kPrompt, 1);
  RowLayout layout_{format::Geometry(
      {{DType::kFloat32, DType::kFloat32, 2, 8, 6}, {DType::kFloat32, DType::kFloat32, 2, 8, 6}})};
  BatchShape shape_{{tokens_}, kPrompt, kEnd};
  std::unique_ptr<PageFormat> format_ = make_page_format({}, layout_, shape_, 2 * kPage, at::kCPU);
  std::vector<bool> none_ = std::vector<bool>(4, false);
  std::uint64_t page_bytes_ = kPage * 2 * (8 + 6) * 4;
};

// A step reads all pages, first those that have a frame. So whoever decides which ones these are,
// there are as many hits as frames: one of them is the page that is written.
TEST_F(PageTraffic, AStepThatReadsAllHitsAsManyPagesAsHaveRoom) {
  for (const std::string residency : {"lru", "clock", "lru2", "predictive"}) {
    for (const std::int64_t frames : {2, 4}) {
      const auto cache = make(frames, residency);
      run(*cache);
      std::uint64_t demands = 0;
      std::uint64_t steps = 0;
      for (std::int64_t position = kPrompt; position < kEnd; ++position, ++steps) {
        demands += static_cast<std::uint64_t>(position / kPage + 1);
      }
      const cache::PageTraffic pages = cache->use().pages;
      EXPECT_EQ(pages.demands, 2 * demands);
      EXPECT_EQ(pages.inner_demands, 2 * (demands - steps));
      EXPECT_EQ(pages.hits, 2 * steps * static_cast<std::uint64_t>(frames));
      EXPECT_EQ(pages.inner_hits, 2 * steps * static_cast<std::uint64_t>(frames - 1));
      EXPECT_EQ(pages.late, 0U);
      EXPECT_EQ(pages.prefetched, 0U);
      EXPECT_GT(*pages.miss_seconds, 0.0);
      EXPECT_GT(*pages.write_seconds, 0.0);
      EXPECT_EQ(pages.late_seconds, 0.0);
    }
  }
}

TEST_F(PageTraffic, WithRoomForEverythingEveryPageIsThere) {
  const auto cache = make((kEnd + kPage - 1) / kPage, "lru");
  run(*cache);
  const cache::PageTraffic pages = cache->use().pages;
  EXPECT_GT(pages.demands, 0U);
  EXPECT_EQ(pages.hit_rate(), 1.0);
  EXPECT_EQ(pages.inner_hit_rate(), 1.0);
  EXPECT_EQ(pages.miss_seconds, 0.0);
  cache->clear(shape_);
  EXPECT_EQ(cache->use().pages, cache::PageTraffic());
}

TEST_F(PageTraffic, WhatCameAheadInTimeIsAHit) {
  const auto store = store_of_four_pages("residency=predictive,prefetch=1");
  fetch_one_ahead(*store);
  EXPECT_EQ(store->traffic().wasted_bytes, page_bytes_);  // as long as no step has read it
  store->arrive(1);                                       // as an injection does
  store->arrive_for_step(1);
  EXPECT_TRUE(store->demand({1, 0, 0}, true));
  EXPECT_TRUE(store->demand({1, 0, 2}, false));
  EXPECT_FALSE(store->demand({1, 0, 1}, true));
  const cache::PageTraffic& pages = store->traffic();
  EXPECT_EQ(pages.demands, 3U);
  EXPECT_EQ(pages.hits, 2U);
  EXPECT_EQ(pages.inner_demands, 2U);
  EXPECT_EQ(pages.inner_hits, 1U);
  EXPECT_EQ(pages.late, 0U);
  EXPECT_EQ(pages.prefetch_hits, 1U);
  EXPECT_EQ(pages.wasted_bytes, 0U);
  EXPECT_EQ(pages.late_seconds, 0.0);
}

// A page takes 50 ms on this link.
TEST_F(PageTraffic, WhatIsUnderWayWhenItIsNeededIsLate) {
  const auto store = store_of_four_pages("residency=predictive,prefetch=1,link=0.00000672");
  fetch_one_ahead(*store);
  store->arrive_for_step(1);
  EXPECT_TRUE(store->demand({1, 0, 0}, true));
  const cache::PageTraffic& pages = store->traffic();
  EXPECT_EQ(pages.late, 1U);
  EXPECT_EQ(pages.hits, 0U);
  EXPECT_EQ(pages.misses(), 0U);
  EXPECT_EQ(pages.prefetch_hits, 1U);
  EXPECT_EQ(pages.timeliness(), 0.0);
  EXPECT_GT(*pages.late_seconds, 0.025);
  EXPECT_EQ(pages.miss_seconds, 0.0);
  EXPECT_FALSE(store->demand({1, 0, 1}, true));
  store->fetch({1, 0, 1}, none_, 18);
  EXPECT_GE(*pages.miss_seconds, 0.045);
}

TEST_F(PageTraffic, WhatTheNextStepDoesNotReadIsWasted) {
  const auto store = store_of_four_pages("residency=predictive,prefetch=1");
  fetch_one_ahead(*store);
  store->arrive_for_step(1);
  store->end_step(1, 0);
  // It is there for a later one, but nobody said so.
  EXPECT_TRUE(store->demand({1, 0, 0}, true));
  EXPECT_EQ(store->traffic().hits, 1U);
  EXPECT_EQ(store->traffic().prefetch_hits, 0U);
  EXPECT_EQ(store->traffic().wasted_bytes, page_bytes_);
}

}  // namespace
}  // namespace kvtool::engine
