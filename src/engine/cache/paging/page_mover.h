// Carries the tensors of pages between device and host memory: now, or ahead of their use while the
// caller does something else.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Event.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/step_ring.h"
#include "kvtool/base/background_worker.h"

namespace kvtool::engine {

// Of each tensor of `from` to that of `to`, which has its shape and type.
struct PageCopy {
  std::vector<at::Tensor> from;
  std::vector<at::Tensor> to;
  // Throws where the bytes that arrived are wrong; may be empty.
  std::function<void()> check = {};

  [[nodiscard]] std::uint64_t nbytes() const;
};

// Between tensors of one shape and type in host memory. Not copy_(): on a thread of its own that
// would start a second team of OpenMP threads, and their number can be set for the process only.
void copy_on_cpu(const at::Tensor& from, const at::Tensor& to);

// A link that carries one copy after the other, so many bytes a second.
class PacedLink {
 public:
  using Clock = std::chrono::steady_clock;

  explicit PacedLink(double bytes_per_second) : bytes_per_second_(bytes_per_second) {}

  // When the link will have carried so many more bytes. Any thread.
  [[nodiscard]] Clock::time_point reserve(std::uint64_t bytes);

 private:
  double bytes_per_second_;
  std::mutex mutex_;
  Clock::time_point free_at_;
};

// Copies ahead run one after the other, on a CPU on a thread, else on a stream of their own. Their
// memory must be left alone until they have been waited for. Copies that are made now do not wait
// for those, but where a link is emulated all share it.
//
// One thread calls move(), move_ahead() and wait().
class PageMover {
 public:
  // Of a copy ahead.
  class Ticket {
    friend class PageMover;
    std::shared_future<void> done_;      // on a CPU
    std::shared_ptr<c10::Event> event_;  // else
    std::function<void()> check_;        // likewise
  };

  // bytes_per_second: of an emulated link, which a CPU alone has. Its time passes on the thread
  // that copies.
  PageMover(at::Device device, std::optional<double> bytes_per_second);
  // Waits for the copy that is under way; those that have not begun are dropped.
  ~PageMover();
  PageMover(const PageMover&) = delete;
  PageMover& operator=(const PageMover&) = delete;

  // On return it is made, on another device queued behind what the current stream has. Error
  // kMisuse where shapes or types differ.
  void move(const PageCopy& copy);
  // Begins behind what the current stream has, and behind other copies ahead.
  [[nodiscard]] Ticket move_ahead(PageCopy copy);
  // What the caller does from now on, on another device with the current stream, sees the copy.
  // Throws what the copy threw, its check included, which on a CPU ran on the thread that copied.
  void wait(const Ticket& ticket) const;
  // Whether the caller's thread is what waits for copies, so that it can tell when they are made.
  [[nodiscard]] bool waits_on_host() const { return !side_.exists(); }
  // Of a copy ahead that the caller's thread would wait for: whether it is made.
  [[nodiscard]] static bool is_made(const Ticket& ticket);
  // Blocks until the bytes of every copy that was made now are where they belong. Any thread, but
  // not while one is being made.
  void synchronize() const;

  // Of all copies that were asked for. Any thread.
  [[nodiscard]] std::uint64_t moved_bytes() const { return moved_bytes_; }

 private:
  void move_on_cpu(const PageCopy& copy);

  at::Device device_;
  SideStream side_;
  std::shared_ptr<c10::Event> last_;  // of the copies ahead
  std::optional<c10::Event> now_;     // of the last copy that was made now
  std::optional<PacedLink> link_;
  std::atomic<std::uint64_t> moved_bytes_ = 0;
  std::optional<BackgroundWorker> worker_;  // since the first copy ahead; last: it uses all above
};

}  // namespace kvtool::engine
