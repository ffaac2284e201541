#include "engine/cache/paging/page_mover.h"

#include <c10/core/StreamGuard.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "engine/host_memory.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

// A thread that sleeps wakes so late, and the next copy should not pay for it.
constexpr auto kLateness = std::chrono::microseconds(100);

class StridedCopy {
 public:
  StridedCopy(const at::Tensor& from, const at::Tensor& to)
      : from_(from), to_(to), size_(static_cast<std::int64_t>(from.element_size())) {
    // The innermost dimensions that are dense in both are one block.
    block_ = size_;
    outer_ = from.dim();
    for (; outer_ > 0 && is_dense(outer_ - 1); --outer_) block_ *= from.size(outer_ - 1);
  }

  void run() const {
    if (from_.numel() == 0) return;
    copy(0, static_cast<const std::byte*>(from_.const_data_ptr()),
         static_cast<std::byte*>(to_.mutable_data_ptr()));
  }

 private:
  [[nodiscard]] bool is_dense(std::int64_t dim) const {
    return from_.size(dim) == 1 ||
           (from_.stride(dim) * size_ == block_ && to_.stride(dim) * size_ == block_);
  }

  void copy(std::int64_t dim, const std::byte* from, std::byte* to) const {
    if (dim == outer_) {
      std::memcpy(to, from, static_cast<std::size_t>(block_));
      return;
    }
    for (std::int64_t i = 0; i < from_.size(dim); ++i) {
      copy(dim + 1, from + i * from_.stride(dim) * size_, to + i * to_.stride(dim) * size_);
    }
  }

  const at::Tensor& from_;
  const at::Tensor& to_;
  std::int64_t size_;   // of an element
  std::int64_t block_;  // bytes
  std::int64_t outer_;  // dimensions
};

void check_copy(const PageCopy& copy) {
  const auto is_alike = [](const at::Tensor& from, const at::Tensor& to) {
    return from.sizes() == to.sizes() && from.scalar_type() == to.scalar_type();
  };
  if (!std::ranges::equal(copy.from, copy.to, is_alike)) {
    throw_misuse("a page is copied to tensors of other shapes or types");
  }
}

}  // namespace

void copy_on_cpu(const at::Tensor& from, const at::Tensor& to) { StridedCopy(from, to).run(); }

std::uint64_t PageCopy::nbytes() const {
  std::uint64_t bytes = 0;
  for (const at::Tensor& part : from) bytes += part.nbytes();
  return bytes;
}

PacedLink::Clock::time_point PacedLink::reserve(std::uint64_t bytes) {
  const std::chrono::duration<double> taken(static_cast<double>(bytes) / bytes_per_second_);
  const std::lock_guard lock(mutex_);
  const Clock::time_point now = Clock::now();
  if (free_at_ + kLateness < now) free_at_ = now;
  free_at_ += std::chrono::duration_cast<Clock::duration>(taken);
  return free_at_;
}

PageMover::PageMover(at::Device device, std::optional<double> bytes_per_second)
    : device_(device), side_(device) {
  if (bytes_per_second && device.is_cpu()) link_.emplace(*bytes_per_second);
}

PageMover::~PageMover() {
  worker_.reset();
  if (!last_) return;
  try {
    last_->synchronize();
  } catch (...) {
    // The device has failed; whoever used it was told.
  }
}

void PageMover::move_on_cpu(const PageCopy& copy) {
  std::optional<PacedLink::Clock::time_point> end;
  if (link_) end = link_->reserve(copy.nbytes());
  for (std::size_t part = 0; part < copy.from.size(); ++part) {
    copy_on_cpu(copy.from[part], copy.to[part]);
  }
  if (end) std::this_thread::sleep_until(*end);
  if (copy.check) copy.check();
}

void PageMover::move(const PageCopy& copy) {
  check_copy(copy);
  moved_bytes_ += copy.nbytes();
  if (!side_.exists()) {
    move_on_cpu(copy);
    return;
  }
  for (std::size_t part = 0; part < copy.from.size(); ++part) {
    copy.to[part].copy_(copy.from[part], /*non_blocking=*/true);
  }
  if (!now_) now_.emplace(device_.type());
  now_->record(current_stream(device_));
  if (copy.check) copy.check();
}

PageMover::Ticket PageMover::move_ahead(PageCopy copy) {
  check_copy(copy);
  moved_bytes_ += copy.nbytes();
  Ticket ticket;
  if (!side_.exists()) {
    if (!worker_) worker_.emplace(0);
    // A job's error would end the worker; this one is the ticket's.
    const auto job = std::make_shared<std::packaged_task<void()>>(
        [this, copy = std::move(copy)] { move_on_cpu(copy); });
    ticket.done_ = job->get_future().share();
    worker_->enqueue([job] { (*job)(); });
    return ticket;
  }
  side_.wait_for_compute();
  const c10::StreamGuard on_side(side_.stream());
  for (std::size_t part = 0; part < copy.from.size(); ++part) {
    copy.to[part].copy_(copy.from[part], /*non_blocking=*/true);
  }
  ticket.event_ = std::make_shared<c10::Event>(device_.type());
  ticket.event_->record(side_.stream());
  ticket.check_ = std::move(copy.check);
  last_ = ticket.event_;
  return ticket;
}

void PageMover::wait(const Ticket& ticket) const {
  if (ticket.done_.valid()) ticket.done_.get();
  if (ticket.event_) ticket.event_->block(current_stream(device_));
  if (ticket.check_) ticket.check_();
}

bool PageMover::is_made(const Ticket& ticket) {
  return !ticket.done_.valid() ||
         ticket.done_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

void PageMover::synchronize() const {
  if (now_) now_->synchronize();
}

}  // namespace kvtool::engine
