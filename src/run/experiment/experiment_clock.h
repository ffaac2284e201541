// How far a list of experiments is, and how long the rest will take.
#pragma once

#include <string>
#include <vector>

#include "kvtool/engine/api.h"
#include "kvtool/run/experiment.h"
#include "run/seconds_since.h"

namespace kvtool::run {

// Work is counted in parts: each run of an experiment is one, and so is the replay that judges it.
// A part takes as long as its tokens are many.
class ExperimentClock {
 public:
  void begin(const std::vector<Experiment>& experiments);
  [[nodiscard]] double seconds() const { return seconds_since(started_); }

  // Of one part; tells how much time is left. Interrupted after a stop.
  [[nodiscard]] engine::Progress progress(Observer& observer, const StopToken& stop,
                                          const Experiment& experiment, const std::string& part);
  void finish_part(const Experiment& experiment);
  // What is left of an experiment will not be done.
  void skip(const Experiment& experiment);

 private:
  [[nodiscard]] std::string left(double part_done) const;

  Clock::time_point started_ = Clock::now();
  std::size_t experiments_ = 0;
  std::size_t current_ = 0;           // experiments that were begun
  const Experiment* last_ = nullptr;  // that was begun
  double parts_of_last_ = 0.0;        // that are done
  double done_ = 0.0;
  double left_ = 0.0;
};

}  // namespace kvtool::run
