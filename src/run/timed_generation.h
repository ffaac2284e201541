// A generation, and when its tokens came.
#pragma once

#include <span>
#include <vector>

#include "kvtool/engine/api.h"

namespace kvtool::run {

struct TimedGeneration {
  double first_ms = 0.0;
  std::vector<double> following_ms = {};  // of each later step
  engine::GenerateResult result = {};

  [[nodiscard]] double total_ms() const;
};

// Errors as Model::generate(); `progress` may stop it.
[[nodiscard]] TimedGeneration time_generation(engine::Model& model,
                                              std::span<const engine::Input> inputs,
                                              const engine::GenerateOptions& options,
                                              std::span<format::RowSink* const> sinks,
                                              const engine::Progress& progress);

}  // namespace kvtool::run
