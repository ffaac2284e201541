#pragma once

#include <chrono>
#include <cstdint>

namespace kvtool::engine {

// Monotonic time since construction or the last lap().
class Stopwatch {
 public:
  // Nanoseconds since the last lap, which this call ends.
  std::int64_t lap() {
    const auto now = std::chrono::steady_clock::now();
    const auto elapsed = std::chrono::duration_cast<std::chrono::nanoseconds>(now - start_).count();
    start_ = now;
    return elapsed;
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace kvtool::engine
