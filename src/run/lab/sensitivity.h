// Which part of the K/V cache of a model bears few bits.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kvtool/cache/cache_spec.h"
#include "kvtool/run/lab.h"
#include "run/trial/trial.h"

namespace kvtool::run {

struct PlannedPart {
  std::string name;
  std::optional<std::uint64_t> layer;
  std::uint32_t bits = 0;
  cache::CacheSpec spec;
};

// Groups, recent positions and sinks as of the first policy that is `kivi`; without one groups of
// 32, of which the last is kept whole.
[[nodiscard]] cache::CacheSpec sensitivity_base(const std::vector<cache::CacheSpec>& policies);

[[nodiscard]] std::vector<PlannedPart> plan_parts(const cache::CacheSpec& base,
                                                  std::uint64_t layers);

// `runner`: of references in the shape of a parallel replay. `progress` is told what is about to
// run. Errors as TrialRunner.
[[nodiscard]] LabSensitivity measure_sensitivity(
    const TrialRunner& runner, const cache::CacheSpec& base, std::uint64_t layers,
    format::ReplayMode mode,
    const std::function<engine::Progress(const std::string& words)>& progress);

}  // namespace kvtool::run
