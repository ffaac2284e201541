// What a row of the table says, of what a trial found.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kvtool/format/geometry.h"
#include "kvtool/run/lab.h"
#include "run/reference/reference_sets.h"
#include "run/trial/trial.h"

namespace kvtool::run {

// Of the steps of `mode`; divergence from the free mode, where that ran.
[[nodiscard]] LabQuality lab_quality(const analysis::Figures& figures, format::ReplayMode mode);

// Of the modes that ran the one that a table shows: forced, else inject, else free.
[[nodiscard]] format::ReplayMode lab_mode(std::span<const format::ReplayMode> modes);

// Steps of the recordings, and the keys that a query of them could see where nothing hides any.
struct LabSteps {
  std::uint64_t inputs = 0;
  std::uint64_t steps = 0;         // over inputs
  std::uint64_t visible_keys = 0;  // over steps and inputs, of one layer
  std::uint64_t shortest = 0;      // positions
  std::uint64_t longest = 0;
};
[[nodiscard]] LabSteps lab_steps(std::span<const ReferenceSet> references);
// Positions of the longest input of each batch.
[[nodiscard]] std::vector<std::uint64_t> lab_lengths(std::span<const ReferenceSet> references);

// Fills what is measured of bytes and of what the cache did, and `idle`.
void take_batches(std::span<const TrialBatch> batches, format::ReplayMode mode,
                  const format::Geometry& geometry, const LabSteps& steps, LabRow& row);

// Of a trial that measured attention.
void take_attention(std::span<const TrialBatch> batches, LabRow& row);

// When the steps of a trial ended, as its progress tells it. Keeps what the batches of each mode
// took, in the order in which a trial runs them.
class StepClock {
 public:
  // `seconds`: of any clock that only goes on.
  void tell(std::uint64_t steps_done, double seconds);
  [[nodiscard]] const std::vector<std::vector<double>>& runs() const { return runs_; }  // ms

 private:
  double last_ = 0.0;
  std::vector<std::vector<double>> runs_;
};

// Of the batches of `mode`; single steps where the device computes one before it begins the next.
[[nodiscard]] LabTime lab_time(std::span<const TrialBatch> batches, format::ReplayMode mode,
                               const StepClock& clock, bool step_by_step);

}  // namespace kvtool::run
