#pragma once

namespace kvtool::run {

// How the recordings of a replay are put together.
enum class ReplayShape {
  kRecorded,  // what ran together runs together
  kSingle,    // one input at a time
  kParallel,  // many inputs for one parallel replay
};

}  // namespace kvtool::run
