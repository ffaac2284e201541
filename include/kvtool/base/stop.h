// Asks what runs to stop at its next step: Ctrl-C at a terminal, a caller's own wish in a
// library. Who may stop holds the source, who can be stopped a token of it.
#pragma once

#include <atomic>
#include <exception>

namespace kvtool {

// Unwinds what was asked to stop. Not a kvtool::Error: nothing failed.
class Interrupted : public std::exception {
 public:
  [[nodiscard]] const char* what() const noexcept override;
};

// A view of a StopSource, which must outlive it. Copied freely, used by any thread.
class StopToken {
 public:
  // Of nothing: is never asked to stop.
  StopToken() = default;

  [[nodiscard]] bool stop_requested() const noexcept {
    return requested_ != nullptr && requested_->load(std::memory_order_relaxed);
  }
  // Throws Interrupted once a stop was requested.
  void throw_if_requested() const;

 private:
  friend class StopSource;
  explicit StopToken(const std::atomic<bool>& requested) : requested_(&requested) {}

  const std::atomic<bool>* requested_ = nullptr;
};

class StopSource {
 public:
  StopSource() = default;
  StopSource(const StopSource&) = delete;
  StopSource& operator=(const StopSource&) = delete;

  [[nodiscard]] StopToken token() const noexcept { return StopToken(requested_); }
  // Both may be called from a signal handler, and from any thread.
  void request_stop() noexcept { requested_.store(true, std::memory_order_relaxed); }
  void reset() noexcept { requested_.store(false, std::memory_order_relaxed); }

 private:
  static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler stores to it");
  std::atomic<bool> requested_ = false;
};

}  // namespace kvtool
