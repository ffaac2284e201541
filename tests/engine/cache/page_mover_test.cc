#include "engine/cache/paging/page_mover.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "support/error_of.h"

namespace kvtool::engine {
namespace {

using std::chrono::steady_clock;

double seconds_since(steady_clock::time_point start) {
  return std::chrono::duration<double>(steady_clock::now() - start).count();
}

// So many bytes: few enough to be filled by one thread, since a busy machine lets a team wait.
PageCopy copy_of(std::int64_t bytes, double value) {
  return {{at::full({bytes}, value, at::kByte)}, {at::zeros({bytes}, at::kByte)}};
}
constexpr double kMillionBytes = 1e6;
constexpr double kThousandBytes = 1e3;

// A page of a buffer for several rows, heads and frames, and the same in another order of memory.
TEST(PageMover, CopiesAnyShapeOfMemoryAndNothingBesideIt) {
  at::manual_seed(3);
  PageMover mover(at::kCPU, std::nullopt);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kByte}) {
    const at::Tensor buffer = at::randn({2, 3, 24, 5}).mul_(9).abs_().to(dtype);
    const at::Tensor pages = at::randn({2, 5, 24, 3}).mul_(9).abs_().to(dtype);
    const at::Tensor expected = buffer.clone();
    const auto part = [](const at::Tensor& whole) { return whole.select(0, 1).narrow(1, 8, 4); };
    part(expected).copy_(part(pages.transpose(1, 3)));
    PageCopy copy{{part(pages.transpose(1, 3))}, {part(buffer)}};
    // Nothing, a number, and what lies in one piece.
    copy.from.insert(copy.from.end(), {at::empty({0, 4}), at::ones({}), at::ones({7, 2})});
    copy.to.insert(copy.to.end(), {at::empty({0, 4}), at::zeros({}), at::zeros({7, 2})});
    mover.move(copy);
    EXPECT_TRUE(buffer.equal(expected));
    EXPECT_TRUE(copy.to[2].equal(copy.from[2]));
    EXPECT_TRUE(copy.to[3].equal(copy.from[3]));
  }
  // 60 numbers of 4, 2 and 1 bytes, each time with 15 of 4.
  EXPECT_EQ(mover.moved_bytes(), 60U * 7 + 3 * 15 * 4);
}

TEST(PageMover, WhatWasCopiedAheadIsThereAfterTheWait) {
  PageMover mover(at::kCPU, std::nullopt);
  std::vector<PageCopy> copies;
  std::vector<PageMover::Ticket> tickets;
  for (int i = 1; i <= 100; ++i) {
    copies.push_back(copy_of(1000, i));
    tickets.push_back(mover.move_ahead(copies.back()));
  }
  // In any order, and twice.
  for (const std::size_t i : {99U, 3U, 3U, 50U}) {
    mover.wait(tickets[i]);
    EXPECT_TRUE(copies[i].to[0].equal(copies[i].from[0]));
  }
  mover.wait({});  // of nothing
  EXPECT_EQ(mover.moved_bytes(), 100'000U);
}

TEST(PageMover, RefusesTensorsOfOtherShapesOrTypes) {
  PageMover mover(at::kCPU, std::nullopt);
  for (const PageCopy& wrong :
       {PageCopy{{at::ones({2})}, {at::ones({3})}}, PageCopy{{at::ones({2})}, {}},
        PageCopy{{at::ones({2})}, {at::ones({2}, at::kHalf)}}}) {
    EXPECT_EQ(error_of([&] { mover.move(wrong); }).code(), ErrorCode::kMisuse);
    EXPECT_EQ(error_of([&] { std::ignore = mover.move_ahead(wrong); }).code(), ErrorCode::kMisuse);
  }
  EXPECT_EQ(mover.moved_bytes(), 0U);
}

TEST(PageMover, WhatACheckThrowsReachesWhoWaitsForThatCopyAlone) {
  PageMover mover(at::kCPU, std::nullopt);
  const auto with_check = [](const std::string& wrong) {
    PageCopy copy = copy_of(10, 1);
    const at::Tensor to = copy.to[0];
    copy.check = [to, wrong] {
      EXPECT_EQ(to[9].item<int>(), 1);  // it arrived before
      if (!wrong.empty()) throw_internal(wrong);
    };
    return copy;
  };
  EXPECT_STREQ(error_of([&] { mover.move(with_check("now")); }).what(), "now");
  const PageMover::Ticket first = mover.move_ahead(with_check("ahead"));
  const PageMover::Ticket second = mover.move_ahead(with_check(""));
  mover.wait(second);
  EXPECT_STREQ(error_of([&] { mover.wait(first); }).what(), "ahead");
}

TEST(PageMover, AnEmulatedLinkIsOneForBothKindsOfCopies) {
  PageMover mover(at::kCPU, kMillionBytes);
  const steady_clock::time_point started = steady_clock::now();
  std::vector<PageMover::Ticket> tickets;
  for (int i = 0; i < 10; ++i) tickets.push_back(mover.move_ahead(copy_of(4000, 1)));
  for (int i = 0; i < 10; ++i) mover.move(copy_of(4000, 1));
  for (const PageMover::Ticket& ticket : tickets) mover.wait(ticket);
  EXPECT_GE(seconds_since(started), 0.08);
}

TEST(PageMover, AHandedOverCopyTakesItsTimeElsewhere) {
  PageMover mover(at::kCPU, kThousandBytes);
  PageCopy copy = copy_of(1000, 1);
  const steady_clock::time_point started = steady_clock::now();
  const PageMover::Ticket ticket = mover.move_ahead(std::move(copy));
  EXPECT_LT(seconds_since(started), 0.5);
  mover.wait(ticket);
  EXPECT_GE(seconds_since(started), 1.0);
}

// It comes behind the copy that is under way, not behind those that wait.
TEST(PageMover, ACopyThatIsNeededNowOvertakesThoseAhead) {
  PageMover mover(at::kCPU, kThousandBytes);
  std::vector<PageCopy> ahead(1000, copy_of(100, 1));
  const steady_clock::time_point started = steady_clock::now();
  for (PageCopy& copy : ahead) std::ignore = mover.move_ahead(std::move(copy));
  mover.move(copy_of(10, 1));
  EXPECT_LT(seconds_since(started), 50.0);  // of 100
}

TEST(PageMover, CopiesThatNobodyWaitsForEndWithIt) {
  std::vector<PageCopy> ahead(1000, copy_of(100, 1));
  const steady_clock::time_point started = steady_clock::now();
  {
    PageMover mover(at::kCPU, kThousandBytes);
    for (PageCopy& copy : ahead) std::ignore = mover.move_ahead(std::move(copy));
  }
  EXPECT_LT(seconds_since(started), 50.0);  // of 100
}

TEST(PacedLink, CarriesOneAfterTheOtherFromWhenItIsFree) {
  PacedLink link(kMillionBytes);
  const auto before = PacedLink::Clock::now();
  const auto first = link.reserve(1'000'000);
  const auto second = link.reserve(500'000);
  EXPECT_GE(first - before, std::chrono::seconds(1));
  EXPECT_EQ(second - first, std::chrono::milliseconds(500));
  // Time in which nothing is carried is no credit.
  PacedLink idle(kMillionBytes);
  std::ignore = idle.reserve(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const auto later = PacedLink::Clock::now();
  EXPECT_GE(idle.reserve(1000) - later, std::chrono::milliseconds(1));
}

// Frames that are filled ahead in turns while the others are read and filled anew: what runs under
// ThreadSanitizer.
TEST(PageMover, ThreadsMeetAtTheWaitAlone) {
  constexpr std::int64_t kFrames = 4;
  constexpr std::int64_t kNumbers = 3 * 16 * 8;
  PageMover mover(at::kCPU, std::nullopt);
  const at::Tensor host = at::arange(32 * kNumbers, at::kFloat).view({32, 3, 16, 8});
  const at::Tensor frames = at::zeros({3, kFrames * 16, 8});
  const auto frame = [&](std::int64_t index) { return frames.narrow(1, index * 16, 16); };
  std::vector<PageMover::Ticket> tickets(kFrames);
  for (std::int64_t step = 0; step < 500; ++step) {
    const std::int64_t now = step % kFrames;
    mover.wait(tickets[static_cast<std::size_t>(now)]);
    if (step >= kFrames) {
      EXPECT_EQ(*frame(now).const_data_ptr<float>(),
                static_cast<float>((step - kFrames) % 32 * kNumbers));
    }
    const PageCopy copy{{host[step % 32]}, {frame(now)}};
    if (step % 3 == 0) {
      mover.move(copy);
      tickets[static_cast<std::size_t>(now)] = {};
    } else {
      tickets[static_cast<std::size_t>(now)] = mover.move_ahead(copy);
    }
  }
}

}  // namespace
}  // namespace kvtool::engine
