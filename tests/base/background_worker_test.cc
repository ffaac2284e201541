#include "kvtool/base/background_worker.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <future>
#include <memory>
#include <numeric>
#include <string>

#include "kvtool/base/error.h"
#include "support/error_of.h"

namespace kvtool {
namespace {

TEST(BackgroundWorker, DoesJobsInOrderOnOneOtherThread) {
  BackgroundWorker worker(0);
  std::vector<int> order;
  std::thread::id thread;
  for (int i = 0; i < 100; ++i) {
    worker.enqueue([&, i] {
      order.push_back(i);
      thread = std::this_thread::get_id();
    });
  }
  worker.drain();
  std::vector<int> expected(100);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(order, expected);
  EXPECT_NE(thread, std::this_thread::get_id());
}

TEST(BackgroundWorker, DrainWithoutJobsReturns) {
  BackgroundWorker worker(2);
  worker.drain();
  worker.drain();
}

TEST(BackgroundWorker, DrainSeesWhatTheJobsWrote) {
  BackgroundWorker worker(0);
  int sum = 0;  // no atomic: ThreadSanitizer sees a drain() that does not synchronise
  for (int round = 1; round <= 50; ++round) {
    worker.enqueue([&] { ++sum; });
    worker.drain();
    ASSERT_EQ(sum, round);
    ++sum;
    --sum;
  }
}

// A buffer per slot and no lock of their own: a slot that is given out twice is a race.
TEST(BackgroundWorker, ASlotHasOneUserAtATime) {
  constexpr std::size_t kSlots = 4;
  BackgroundWorker worker(kSlots);
  std::array<int, kSlots> buffers{};
  std::vector<int> received;
  for (int i = 0; i < 1000; ++i) {
    const std::size_t slot = worker.acquire();
    ASSERT_LT(slot, kSlots);
    buffers[slot] = i;
    worker.submit(slot, [&, slot] { received.push_back(buffers[slot]); });
  }
  worker.drain();
  std::vector<int> expected(1000);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(received, expected);
}

TEST(BackgroundWorker, ASlowJobHoldsTheProducerBackAtTheNumberOfSlots) {
  constexpr int kSlots = 3;
  BackgroundWorker worker(kSlots);
  std::promise<void> go;
  std::shared_future<void> gone(go.get_future());
  std::atomic<int> acquired{0};
  std::thread producer([&] {
    for (int i = 0; i < 20; ++i) {
      const std::size_t slot = worker.acquire();
      ++acquired;
      worker.submit(slot, [gone] { gone.wait(); });
    }
  });
  while (acquired < kSlots) std::this_thread::yield();
  // The first job waits, so no slot can come back, however long this thread looks.
  for (int look = 0; look < 1000; ++look) {
    ASSERT_EQ(acquired, kSlots);
    std::this_thread::yield();
  }
  go.set_value();
  producer.join();
  worker.drain();
  EXPECT_EQ(acquired, 20);
}

TEST(BackgroundWorker, AReleasedSlotIsGivenOutAgain) {
  BackgroundWorker worker(1);
  for (int i = 0; i < 3; ++i) worker.release(worker.acquire());
  EXPECT_EQ(worker.acquire(), 0U);
}

TEST(BackgroundWorker, TheFirstErrorStaysAndNoJobAfterItRuns) {
  BackgroundWorker worker(2);
  std::vector<std::string> done;
  const std::size_t first = worker.acquire();
  const std::size_t second = worker.acquire();
  std::promise<void> queued;
  worker.submit(first, [&] {
    queued.get_future().wait();
    throw_environment("disk full");
  });
  worker.submit(second, [&] { done.emplace_back("after the error"); });
  queued.set_value();
  for (int call = 0; call < 2; ++call) {
    EXPECT_STREQ(error_of([&] { worker.drain(); }).what(), "disk full");
    EXPECT_STREQ(error_of([&] { worker.enqueue([&] { done.emplace_back("late"); }); }).what(),
                 "disk full");
    // Both slots are still in use: without the error this would wait forever.
    EXPECT_EQ(error_of([&] { (void)worker.acquire(); }).code(), ErrorCode::kEnvironment);
  }
  EXPECT_TRUE(done.empty());
}

TEST(BackgroundWorker, AnErrorWakesAProducerThatWaitsForASlot) {
  BackgroundWorker worker(1);
  std::promise<void> waiting;
  worker.submit(worker.acquire(), [&] {
    waiting.get_future().wait();
    throw_environment("disk full");
  });
  std::thread producer([&] {
    waiting.set_value();
    EXPECT_STREQ(error_of([&] { (void)worker.acquire(); }).what(), "disk full");
  });
  producer.join();
}

TEST(BackgroundWorker, DestructionDropsWhatHasNotBegunAndWaitsForWhatHas) {
  std::atomic<int> done{0};
  const auto held = std::make_shared<int>(0);
  std::promise<void> begun;
  std::promise<void> go;
  {
    std::thread opener;
    {
      BackgroundWorker worker(0);
      worker.enqueue([&] {
        begun.set_value();
        go.get_future().wait();
        ++done;
      });
      begun.get_future().wait();
      for (int i = 0; i < 10; ++i) worker.enqueue([&done, held] { done += 100; });
      opener = std::thread([&] { go.set_value(); });
    }
    opener.join();
  }
  // The opener may let the job end before destruction begins, and more of them run.
  EXPECT_GE(done, 1);
  EXPECT_EQ(held.use_count(), 1) << "what a dropped job held is gone";
}

TEST(BackgroundWorker, AnErrorThatNobodyFetchedDoesNotOutliveIt) {
  BackgroundWorker worker(0);
  worker.enqueue([] { throw_environment("lost"); });
}

TEST(BackgroundWorker, WhatAJobHoldsIsGoneWhenDrainReturns) {
  BackgroundWorker worker(0);
  const auto held = std::make_shared<int>(0);
  for (int i = 0; i < 100; ++i) {
    worker.enqueue([held] {});
    worker.drain();
    ASSERT_EQ(held.use_count(), 1);
  }
}

}  // namespace
}  // namespace kvtool
