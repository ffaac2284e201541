#include "timed_generation.h"

#include <numeric>

#include "seconds_since.h"

namespace kvtool::run {

double TimedGeneration::total_ms() const {
  return std::accumulate(following_ms.begin(), following_ms.end(), first_ms);
}

TimedGeneration time_generation(engine::Model& model, std::span<const engine::Input> inputs,
                                const engine::GenerateOptions& options,
                                std::span<format::RowSink* const> sinks,
                                const engine::Progress& progress) {
  TimedGeneration timed;
  Clock::time_point last;
  const auto on_step = [&](std::uint64_t done, std::uint64_t total) {
    if (done > 0) timed.following_ms.push_back(seconds_since(last) * 1e3);
    progress(done, total);
    last = Clock::now();
  };
  timed.result = model.generate(inputs, options, sinks, on_step);
  timed.first_ms = timed.result.timing.prefill_seconds * 1e3;
  return timed;
}

}  // namespace kvtool::run
