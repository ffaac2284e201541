// What must have happened in a run under a policy: a run whose policy did nothing is a run under
// another policy, whatever its name says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kvtool/cache/cache_spec.h"
#include "kvtool/cache/cache_use.h"
#include "kvtool/format/geometry.h"

namespace kvtool::cache {

// Of a batch that ran.
struct RunLength {
  format::Geometry geometry;    // of the model
  std::uint64_t positions = 0;  // of the longest input, its steps included
  std::uint64_t steps = 0;
  std::uint64_t rows = 1;
  std::uint64_t capacity = 0;  // positions of each row that the cache was made for
  // In passes of many steps, which attend to what a cache says that they see, without its pages.
  bool in_parallel = false;
};

// What did not happen although spec and length say that it must have; nothing where all is well.
[[nodiscard]] std::optional<std::string> not_applied(const CacheSpec& spec, const RunLength& run,
                                                     const CacheUse& use);

}  // namespace kvtool::cache
