#include "kvtool/cache/residency.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "support/error_of.h"

namespace kvtool::cache {
namespace {

const auto kAny = [](PageId) { return true; };

// A cache of so many frames that is asked for pages one after the other; the misses.
std::vector<std::size_t> misses(Residency& residency, std::size_t frames,
                                const std::vector<PageId>& pages) {
  std::vector<PageId> held;
  std::vector<std::size_t> missed;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    if (std::ranges::find(held, pages[i]) != held.end()) {
      residency.use(pages[i]);
      continue;
    }
    missed.push_back(i);
    if (held.size() == frames) {
      const PageId out = residency.victim(kAny);
      residency.leave(out);
      std::erase(held, out);
    }
    residency.enter(pages[i]);
    held.push_back(pages[i]);
  }
  return missed;
}

// By the definition: of the pages that are held the one whose k-th last use is longest ago.
std::vector<std::size_t> misses_by_definition(std::size_t k, std::size_t frames,
                                              const std::vector<PageId>& pages) {
  std::vector<PageId> held;
  std::vector<std::size_t> missed;
  std::vector<std::size_t> entered(*std::ranges::max_element(pages) + 1, 0);
  for (std::size_t i = 0; i < pages.size(); ++i) {
    if (std::ranges::find(held, pages[i]) != held.end()) continue;
    missed.push_back(i);
    // Uses since it entered, the latest first, as far as there are k; then the latest.
    const auto age = [&](PageId page) {
      std::vector<std::int64_t> uses;
      for (std::size_t j = i; j-- > entered[page];) {
        if (pages[j] == page) uses.push_back(static_cast<std::int64_t>(j));
      }
      const std::int64_t kth = uses.size() < k ? -1 : uses[k - 1];
      return std::pair(kth, uses.front());
    };
    if (held.size() == frames) {
      const auto out = std::ranges::min_element(held, {}, age);
      held.erase(out);
    }
    entered[pages[i]] = i;
    held.push_back(pages[i]);
  }
  return missed;
}

TEST(Residency, LruAndLru2AreTheirDefinitions) {
  std::mt19937 random(4);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<PageId> pages(60);
    for (PageId& page : pages) page = random() % 9;
    for (const std::size_t frames : {1U, 2U, 5U}) {
      EXPECT_EQ(misses(*make_lru(), frames, pages), misses_by_definition(1, frames, pages));
      EXPECT_EQ(misses(*make_lru2(), frames, pages), misses_by_definition(2, frames, pages));
    }
  }
}

// Two pages that are used again and again, between scans of others.
TEST(Residency, AScanPassesByLru2Alone) {
  std::vector<PageId> pages;
  for (PageId scan = 10; scan < 90; scan += 4) {
    for (const PageId page : {PageId{1}, PageId{2}, scan, scan + 1, scan + 2, scan + 3}) {
      pages.push_back(page);
      if (page <= 2) pages.push_back(page);
    }
  }
  EXPECT_EQ(misses(*make_lru2(), 4, pages).size(), 82U);
  EXPECT_EQ(misses(*make_lru(), 4, pages).size(), 120U);
}

// One page more than there are frames, always in the same order: what is needed next went last.
TEST(Residency, AscendingScansHitNothingUnderLru) {
  std::vector<PageId> pages;
  for (PageId i = 0; i < 50; ++i) pages.push_back(i % 5);
  EXPECT_EQ(misses(*make_lru(), 4, pages).size(), pages.size());
}

// By hand: 1, 2 and 3 come, 1 is used. All are marked; the hand takes the marks and comes back
// to 1. After a use of 2 it passes 2 and takes 3.
TEST(Residency, TheHandOfClockTakesMarksAwayBeforeItTakesPages) {
  const auto clock = make_clock();
  for (PageId page = 1; page <= 3; ++page) clock->enter(page);
  clock->use(1);
  EXPECT_EQ(clock->victim(kAny), 1U);
  clock->leave(1);
  clock->enter(4);
  clock->use(2);
  EXPECT_EQ(clock->victim(kAny), 3U);
  EXPECT_EQ(clock->victim([](PageId page) { return page != 3; }), 2U);
}

class EveryResidency : public testing::TestWithParam<ResidencyInfo> {};

TEST_P(EveryResidency, TakesNoPageThatMayNotGo) {
  const auto residency = make_residency(GetParam().name);
  for (PageId page = 7; page <= 9; ++page) residency->enter(page);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(residency->victim([](PageId page) { return page == 8; }), 8U);
  }
  EXPECT_EQ(error_of([&] { residency->victim([](PageId) { return false; }); }).code(),
            ErrorCode::kMisuse);
}

TEST_P(EveryResidency, KnowsWhichPagesAreThere) {
  const auto residency = make_residency(GetParam().name);
  residency->enter(1);
  EXPECT_EQ(error_of([&] { residency->enter(1); }).code(), ErrorCode::kMisuse);
  EXPECT_EQ(error_of([&] { residency->use(2); }).code(), ErrorCode::kMisuse);
  residency->leave(1);
  EXPECT_EQ(error_of([&] { residency->leave(1); }).code(), ErrorCode::kMisuse);
  EXPECT_EQ(error_of([&] { residency->victim(kAny); }).code(), ErrorCode::kMisuse);
  residency->enter(1);
  EXPECT_EQ(residency->victim(kAny), 1U);
}

// Pages that fit are missed once, whoever decides.
TEST_P(EveryResidency, PagesThatFitStay) {
  std::vector<PageId> pages;
  for (int round = 0; round < 5; ++round) {
    for (PageId page = 0; page < 6; ++page) pages.push_back(page);
  }
  EXPECT_EQ(misses(*make_residency(GetParam().name), 6, pages).size(), 6U);
}

INSTANTIATE_TEST_SUITE_P(Residencies, EveryResidency, testing::ValuesIn(kResidencies),
                         [](const testing::TestParamInfo<ResidencyInfo>& tested) {
                           return std::string(tested.param.name);
                         });

}  // namespace
}  // namespace kvtool::cache
