// How long something takes, for what a user is shown.
#pragma once

#include <chrono>

namespace kvtool::run {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace kvtool::run
