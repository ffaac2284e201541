#include "kvtool/base/background_worker.h"

#include <utility>

namespace kvtool {

BackgroundWorker::BackgroundWorker(std::size_t slots) {
  // The last one is given out first; capacity for all, so that release() cannot fail.
  for (std::size_t slot = slots; slot > 0; --slot) free_.push_back(slot - 1);
  thread_ = std::thread([this] { run(); });
}

BackgroundWorker::~BackgroundWorker() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::size_t BackgroundWorker::acquire() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !free_.empty() || error_; });
  throw_error();
  const std::size_t slot = free_.back();
  free_.pop_back();
  return slot;
}

void BackgroundWorker::release(std::size_t slot) noexcept {
  {
    const std::lock_guard lock(mutex_);
    free_.push_back(slot);
  }
  changed_.notify_all();
}

void BackgroundWorker::submit(std::size_t slot, Job job) { add({std::move(job), slot}); }

void BackgroundWorker::enqueue(Job job) { add({std::move(job), std::nullopt}); }

void BackgroundWorker::add(Entry entry) {
  {
    const std::lock_guard lock(mutex_);
    throw_error();
    entries_.push_back(std::move(entry));
  }
  changed_.notify_all();
}

void BackgroundWorker::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return (entries_.empty() && !busy_) || error_; });
  throw_error();
}

void BackgroundWorker::throw_error() const {
  if (error_) std::rethrow_exception(error_);
}

void BackgroundWorker::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || (!entries_.empty() && !error_); });
    if (stopping_) return;
    std::optional<Entry> entry = std::move(entries_.front());
    entries_.pop_front();
    const std::optional<std::size_t> slot = entry->slot;
    busy_ = true;
    lock.unlock();
    std::exception_ptr error;
    try {
      entry->job();
    } catch (...) {
      error = std::current_exception();
    }
    // What the job holds goes before drain() can return.
    entry.reset();
    lock.lock();
    busy_ = false;
    if (error) {
      error_ = error;
    } else if (slot) {
      free_.push_back(*slot);
    }
    changed_.notify_all();
  }
}

}  // namespace kvtool
