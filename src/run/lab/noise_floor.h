// The row of a lab that says what rounding alone does: the cache that made the recordings, where
// other kernels compute the same.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kvtool/analysis/summary.h"
#include "kvtool/run/lab.h"
#include "run/reference/reference_sets.h"

namespace kvtool::run {

struct NoiseFloor {
  std::string note;     // what differs
  std::string missing;  // not empty: there is none, and why
  std::optional<analysis::Figures> figures;
  // The other batch shape is to be replayed here, in this process.
  bool single_inputs = false;
};

// Under a weaker instruction set of a CPU, in a process of its own; where there is none, or the
// device is no CPU, inputs that ran together one at a time. `modes` of LabRequest, resolved.
[[nodiscard]] NoiseFloor noise_floor(const LabRequest& request, const Services& services,
                                     const std::string& device_type,
                                     std::span<const ReferenceSet> references,
                                     const std::vector<format::ReplayMode>& modes,
                                     const analysis::FlipBounds& bounds);

}  // namespace kvtool::run
