#include "experiment_clock.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace kvtool::run {
namespace {

// A token of a prompt is computed with many others, a new one alone.
constexpr double kNewTokenWeight = 8.0;

double part_of(const Experiment& experiment) {
  return static_cast<double>(experiment.asked_context) +
         kNewTokenWeight * static_cast<double>(experiment.settings.max_new_tokens);
}

double parts_in(const Experiment& experiment) {
  return static_cast<double>(experiment.settings.runs) + 1.0;
}

std::string time_words(double seconds) {
  if (seconds < 90.0) return fmt::format("{:.0f} s", std::ceil(seconds));
  if (seconds < 5400.0) return fmt::format("{:.0f} min", std::ceil(seconds / 60.0));
  return fmt::format("{:.1f} h", seconds / 3600.0);
}

}  // namespace

void ExperimentClock::begin(const std::vector<Experiment>& experiments) {
  started_ = Clock::now();
  experiments_ = experiments.size();
  for (const Experiment& experiment : experiments) {
    left_ += part_of(experiment) * parts_in(experiment);
  }
}

engine::Progress ExperimentClock::progress(Observer& observer, const StopToken& stop,
                                           const Experiment& experiment, const std::string& part) {
  if (last_ != &experiment) {
    last_ = &experiment;
    parts_of_last_ = 0.0;
    ++current_;
  }
  const std::string what = fmt::format("experiment {}/{}: {} at {}, {}", current_, experiments_,
                                       experiment.settings.mode, experiment.context, part);
  const double size = part_of(experiment);
  return [this, &observer, stop, what, size](std::uint64_t done, std::uint64_t total) {
    stop.throw_if_requested();
    const double share = total == 0 ? 0.0 : static_cast<double>(done) / static_cast<double>(total);
    observer.progress(fmt::format("{}, step {}/{}{}", what, done, total, left(share * size)));
  };
}

void ExperimentClock::finish_part(const Experiment& experiment) {
  const double size = part_of(experiment);
  parts_of_last_ += 1.0;
  done_ += size;
  left_ = std::max(0.0, left_ - size);
}

void ExperimentClock::skip(const Experiment& experiment) {
  const bool begun = last_ == &experiment;
  const double parts = parts_in(experiment) - (begun ? parts_of_last_ : 0.0);
  left_ = std::max(0.0, left_ - part_of(experiment) * parts);
  if (!begun) ++current_;
}

std::string ExperimentClock::left(double part_done) const {
  const double done = done_ + part_done;
  // The first part also loads and warms up.
  if (done_ <= 0.0) return {};
  return ", about " + time_words(seconds() * std::max(0.0, left_ - part_done) / done) + " left";
}

}  // namespace kvtool::run
