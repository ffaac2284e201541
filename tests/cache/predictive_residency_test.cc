#include "kvtool/cache/predictive_residency.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <set>
#include <vector>

namespace kvtool::cache {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

using Step = std::vector<PageScore>;

const auto kAnyPage = [](PageId) { return true; };

PredictiveResidency by(PageRank rank, std::uint64_t prefetch = 4, double precision = 0.5) {
  return PredictiveResidency({rank, prefetch, precision});
}

// The page 1 in four steps: shares 0.5, 0.25, 0.75 and 0.5, used in all but the second.
std::vector<double> ranks_of_a_page(PageRank rank) {
  PredictiveResidency residency = by(rank);
  std::vector<double> ranks;
  for (const auto& [mass, used] : {std::pair(0.5, true), std::pair(0.25, false),
                                   std::pair(0.75, true), std::pair(0.5, true)}) {
    residency.observe(Step{{1, mass, used}});
    ranks.push_back(residency.rank(1));
  }
  return ranks;
}

TEST(PredictiveResidency, RanksAreTheirFormulas) {
  EXPECT_THAT(ranks_of_a_page(PageRank::kMass), ElementsAre(0.5, 0.25, 0.75, 0.5));
  EXPECT_THAT(ranks_of_a_page(PageRank::kFrequency),
              ElementsAre(1.0 / 8, 7.0 / 64, 113.0 / 512, 1303.0 / 4096));
  // After a use nothing is known, after none neither; then of one use that no use followed 1/3;
  // then of two, the older of which counts 7/8, (1 + 1) / (15/8 + 2).
  EXPECT_THAT(ranks_of_a_page(PageRank::kConfidence),
              ElementsAre(0.5 / 2, 0.25 / 2, 0.75 / 3, 0.5 * 16 / 31));
}

TEST(PredictiveResidency, APageThatAStepCouldNotSeeHasNoShareInIt) {
  PredictiveResidency mass = by(PageRank::kMass);
  PredictiveResidency frequency = by(PageRank::kFrequency);
  for (PredictiveResidency* each : {&mass, &frequency}) {
    each->observe(Step{{1, 0.5, true}});
    each->observe(Step{{2, 0.5, true}});
  }
  EXPECT_EQ(mass.rank(1), 0.0);
  EXPECT_EQ(frequency.rank(1), 7.0 / 64);
  EXPECT_EQ(mass.rank(3), 0.0);
}

TEST(PredictiveResidency, TheVictimIsThePageOfTheLeastRank) {
  PredictiveResidency residency = by(PageRank::kMass);
  for (PageId page = 1; page <= 4; ++page) residency.enter(page);
  residency.use(2);
  residency.observe(Step{{1, 0.2, true}, {2, 0.1, true}, {3, 0.1, false}, {4, 0.3, false}});
  // 2 and 3 rank alike, 3 was used before 2.
  EXPECT_EQ(residency.victim(kAnyPage), 3U);
  EXPECT_EQ(residency.victim([](PageId page) { return page != 3; }), 2U);
  EXPECT_EQ(residency.victim([](PageId page) { return page != 3 && page != 2; }), 1U);
}

TEST(PredictiveResidency, WithoutStepsItIsLru) {
  PredictiveResidency residency = by(PageRank::kConfidence);
  for (PageId page = 1; page <= 3; ++page) residency.enter(page);
  residency.use(1);
  EXPECT_EQ(residency.victim(kAnyPage), 2U);
  EXPECT_THAT(residency.wanted(3, kAnyPage), IsEmpty());
}

TEST(PredictiveResidency, WantsThoseAloneThatOutrankWhatWouldGo) {
  PredictiveResidency residency = by(PageRank::kMass);
  for (PageId page = 1; page <= 3; ++page) residency.enter(page);
  residency.observe(Step{{1, 0.25, true},
                         {2, 0.02, false},
                         {3, 0.05, true},
                         {4, 0.125, false},
                         {5, 0.05, true},
                         {6, 0.3, true}});
  PredictiveResidency roomy = residency;
  PredictiveResidency held = residency;
  // 6 for 2, 4 for 3; 5 would go for 1.
  EXPECT_THAT(residency.wanted(0, kAnyPage), ElementsAre(6, 4));
  // 6 into the free frame, 4 for 2; 5 ranks like 3.
  EXPECT_THAT(roomy.wanted(1, kAnyPage), ElementsAre(6, 4));
  // 3 may go alone.
  EXPECT_THAT(held.wanted(0, [](PageId page) { return page == 3; }), ElementsAre(6));
}

TEST(PredictiveResidency, WantsAtMostAsManyAsItIsTold) {
  const Step step{{1, 0.25, true}, {2, 0.5, true}, {3, 0.125, true}};
  for (const std::uint64_t most : {0U, 1U, 2U}) {
    PredictiveResidency residency = by(PageRank::kMass, most);
    residency.observe(step);
    EXPECT_EQ(residency.wanted(9, kAnyPage).size(), most);
    // Of one step, however often it is asked.
    EXPECT_THAT(residency.wanted(9, kAnyPage), IsEmpty());
  }
}

TEST(PredictiveResidency, TheThresholdMovesByWhatCameTrue) {
  PredictiveResidency residency = by(PageRank::kMass);
  const auto used = [](bool first, bool second) {
    return Step{{1, 0.5, first}, {2, 0.4, second}, {3, 0x1p-9, true}};
  };
  EXPECT_EQ(residency.threshold(), 0x1p-8);
  residency.observe(used(true, true));
  EXPECT_THAT(residency.wanted(9, kAnyPage), ElementsAre(1, 2));  // 3 is below the threshold
  residency.observe(used(false, false));
  EXPECT_DOUBLE_EQ(residency.threshold(), std::exp2(-8 + 0.5 * (0.5 * 2 - 0) / 4));
  std::ignore = residency.wanted(9, kAnyPage);
  residency.observe(used(true, true));
  EXPECT_DOUBLE_EQ(residency.threshold(), 0x1p-8);
  std::ignore = residency.wanted(9, kAnyPage);
  residency.observe(used(true, false));
  EXPECT_DOUBLE_EQ(residency.threshold(), 0x1p-8);
}

TEST(PredictiveResidency, TheThresholdComesDownAgainWhereItLetsNothingPass) {
  PredictiveResidency residency = by(PageRank::kMass, 1, 1.0);
  const Step step{{1, 0x1p-7, false}};
  residency.observe(step);
  // 2^-8, 2^-7.5, 2^-7: then above.
  for (int wrong = 0; wrong < 3; ++wrong) {
    EXPECT_THAT(residency.wanted(9, kAnyPage), ElementsAre(1)) << wrong;
    residency.observe(step);
  }
  EXPECT_DOUBLE_EQ(residency.threshold(), std::exp2(-6.5));
  for (int idle = 0; idle < 8; ++idle) {
    EXPECT_THAT(residency.wanted(9, kAnyPage), IsEmpty()) << idle;
    residency.observe(step);
  }
  EXPECT_THAT(residency.wanted(9, kAnyPage), ElementsAre(1));
}

// Where nothing is missing that is better than what is there, nothing is learnt of the threshold.
TEST(PredictiveResidency, TheThresholdStaysWhereItHoldsNothingBack) {
  PredictiveResidency residency = by(PageRank::kMass);
  residency.enter(1);
  for (int step = 0; step < 100; ++step) {
    residency.observe(Step{{1, 0.75, true}, {2, 0x1p-10, false}});
    EXPECT_THAT(residency.wanted(0, kAnyPage), IsEmpty());
  }
  EXPECT_EQ(residency.threshold(), 0x1p-8);
}

TEST(PredictiveResidency, TheThresholdHasBounds) {
  PredictiveResidency low = by(PageRank::kMass, 1, 0.0);
  PredictiveResidency high = by(PageRank::kMass, 1, 1.0);
  for (int step = 0; step < 100; ++step) {
    low.observe(Step{{1, 1.0, true}});
    high.observe(Step{{1, 1.0, false}});
    for (PredictiveResidency* each : {&low, &high}) std::ignore = each->wanted(9, kAnyPage);
  }
  EXPECT_EQ(low.threshold(), 0x1p-16);
  EXPECT_EQ(high.threshold(), 1.0);
}

// In each step 24 pages have the shares 2^-1, 2^-1.5, 2^-2 ... in a new order, and the next step
// uses the one at place i with the probability 4 / (4 + i): the first n come true in the mean of
// these.
class Ladder {
 public:
  Step next() {
    std::vector<bool> used(kPages);
    for (std::size_t place = 0; place < kPages; ++place) {
      const double odds = 4.0 / (4.0 + static_cast<double>(place));
      used[order_[place]] = std::uniform_real_distribution<double>()(random_) < odds;
    }
    std::shuffle(order_.begin(), order_.end(), random_);
    Step step(kPages);
    for (std::size_t place = 0; place < kPages; ++place) {
      const std::size_t page = order_[place];
      step[page] = {page, std::exp2(-1.0 - 0.5 * static_cast<double>(place)), used[page]};
    }
    return step;
  }

 private:
  static constexpr std::size_t kPages = 24;
  std::vector<std::size_t> order_ = [] {
    std::vector<std::size_t> order(kPages);
    for (std::size_t page = 0; page < kPages; ++page) order[page] = page;
    return order;
  }();
  std::mt19937 random_{7};
};

TEST(PredictiveResidency, AsManyComeTrueAsTheyShould) {
  for (const double target : {0.4, 0.5, 0.7, 0.9}) {
    PredictiveResidency residency = by(PageRank::kMass, 24, target);
    Ladder ladder;
    struct {
      std::uint64_t made = 0;
      std::uint64_t came_true = 0;
    } all;
    const auto run = [&](int steps) {
      for (int i = 0; i < steps; ++i) {
        const std::vector<PageId> wanted = residency.wanted(24, kAnyPage);
        EXPECT_FALSE(wanted.empty());
        const Step step = ladder.next();
        all.made += wanted.size();
        for (const PageId page : wanted) all.came_true += step[page].used ? 1 : 0;
        residency.observe(step);
      }
    };
    residency.observe(ladder.next());
    run(1000);
    const auto early = all;
    run(3000);
    // What the threshold moved is the sum of its steps, exactly.
    const double missed =
        target * static_cast<double>(all.made) - static_cast<double>(all.came_true);
    EXPECT_NEAR(std::log2(residency.threshold()), -8.0 + 0.5 * missed / 24, 1e-6);
    // So what it has moved since it is where it should be says how far the share may be off.
    const auto made = static_cast<double>(all.made - early.made);
    const auto came_true = static_cast<double>(all.came_true - early.came_true);
    EXPECT_NEAR(came_true / made, target, 24 * 2 / made);
  }
}

// A cache of so many frames: pages that a step uses and that are not there are fetched on demand.
class Frames {
 public:
  Frames(std::unique_ptr<Residency> residency, std::size_t frames)
      : residency_(std::move(residency)), frames_(frames) {}

  void step(const Step& step) {
    for (const PageScore& score : step) {
      if (!score.used) continue;
      if (held_.contains(score.page)) {
        residency_->use(score.page);
      } else {
        ++on_demand_;
        fetch(score.page);
      }
    }
    residency_->observe(step);
    for (const PageId page : residency_->wanted(frames_ - held_.size(), kAnyPage)) fetch(page);
  }

  [[nodiscard]] int on_demand() const { return on_demand_; }

 private:
  void fetch(PageId page) {
    if (held_.size() == frames_) {
      const PageId out = residency_->victim(kAnyPage);
      residency_->leave(out);
      held_.erase(out);
    }
    residency_->enter(page);
    held_.insert(page);
  }

  std::unique_ptr<Residency> residency_;
  std::size_t frames_;
  std::set<PageId> held_;
  int on_demand_ = 0;
};

int on_demand(const std::vector<Step>& steps, std::string_view residency, PageRank rank,
              std::size_t count) {
  Frames frames(make_residency(residency, {rank, 2, 0.5}), count);
  for (const Step& step : steps) frames.step(step);
  return frames.on_demand();
}

// Ten pages in turn, the next one showing before it is used: none is missing but the first.
TEST(PredictiveResidency, MassFetchesWhatRisesBeforeItIsUsed) {
  std::vector<Step> steps;
  for (PageId turn = 0; turn < 100; ++turn) {
    Step step;
    for (PageId page = 0; page < 10; ++page) {
      const PageId ahead = (page + 10 - turn % 10) % 10;
      step.push_back({page, ahead == 0 ? 0.5 : ahead == 1 ? 0.3 : 0.0, ahead == 0});
    }
    steps.push_back(step);
  }
  EXPECT_EQ(on_demand(steps, "predictive", PageRank::kMass, 4), 1);
  EXPECT_EQ(on_demand(steps, "lru", {}, 4), 100);
}

// Each step uses 5 of 10 hot pages, by chance, and one other; every 20 steps one hot page turns
// cold and another hot. The shares of what is not used say nothing.
TEST(PredictiveResidency, FrequencyKeepsAHotSetThatDrifts) {
  std::mt19937 random(3);
  std::vector<Step> steps;
  for (PageId turn = 0; turn < 600; ++turn) {
    Step step;
    for (PageId page = 0; page < 80; ++page) {
      step.push_back({page, std::uniform_real_distribution<double>(0.0, 0.02)(random), false});
    }
    std::set<PageId> used{random() % 80};
    while (used.size() < 6) used.insert(turn / 20 + random() % 10);
    for (const PageId page : used) step[page] = {page, 0.1, true};
    steps.push_back(step);
  }
  const int frequency = on_demand(steps, "predictive", PageRank::kFrequency, 10);
  EXPECT_LT(frequency, on_demand(steps, "predictive", PageRank::kMass, 10));
  EXPECT_LT(frequency, on_demand(steps, "lru", {}, 10));
}

}  // namespace
}  // namespace kvtool::cache
