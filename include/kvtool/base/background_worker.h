// A thread that does jobs in the order in which they were handed over, and the
// slots that bound how far the producer may run ahead of it. A slot is an
// index: what lies in it (a buffer for one step's rows) is the producer's array.
//
//     const std::size_t slot = worker.acquire();  // waits while all are in use
//     fill(buffers[slot]);
//     worker.submit(slot, [&, slot] { write(buffers[slot]); });  // free again after it
//     ...
//     worker.drain();  // all of it is written, or the error of what was not
//
// The first exception of a job stays: no job after it runs, and every call below
// that may throw rethrows it from then on, those that wait included. One thread
// produces; the worker's own thread must call none of these functions.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace kvtool {

class BackgroundWorker {
 public:
  using Job = std::function<void()>;

  // `slots` may be 0 for a worker that is given jobs by enqueue() alone.
  explicit BackgroundWorker(std::size_t slots);
  // Drops the jobs that have not begun, waits for the one that has. An error that
  // nobody fetched is lost. What the jobs refer to must live until then.
  ~BackgroundWorker();
  BackgroundWorker(const BackgroundWorker&) = delete;
  BackgroundWorker& operator=(const BackgroundWorker&) = delete;

  // A slot that no job and no one else uses; waits for one.
  [[nodiscard]] std::size_t acquire();
  // Gives a slot back that is not submitted after all. Never throws.
  void release(std::size_t slot) noexcept;
  // Hands over a job that uses the slot. The slot is free when the job has ended;
  // if this throws, it stays acquired.
  void submit(std::size_t slot, Job job);
  // A job without a slot. Such jobs are not counted: a producer that hands over
  // many of them is not held back.
  void enqueue(Job job);
  // Every job handed over so far has ended.
  void drain();

 private:
  struct Entry {
    Job job;
    std::optional<std::size_t> slot;
  };

  void add(Entry entry);
  void run();
  void throw_error() const;  // with mutex_ held

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::size_t> free_;
  std::deque<Entry> entries_;
  bool busy_ = false;
  bool stopping_ = false;
  std::exception_ptr error_;
  std::thread thread_;  // last: starts when everything else is ready
};

}  // namespace kvtool
