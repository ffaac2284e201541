// What rows take, layer by layer, as the policy that keeps them does.
#pragma once

#include <cstdint>

#include "kvtool/cache/cache_plan.h"
#include "kvtool/cache/cache_spec.h"
#include "kvtool/format/geometry.h"

namespace kvtool::cache {

struct StoredBytes {
  std::uint64_t position = 0;
  std::uint64_t group = 0;  // once for `group_positions` consecutive ones
  std::uint64_t group_positions = 1;
  std::uint64_t row = 0;  // once for all positions of an input

  [[nodiscard]] std::uint64_t of_page(std::uint64_t positions) const {
    return positions * position + positions / group_positions * group;
  }
  // Of layers of the same policy.
  StoredBytes& operator+=(const StoredBytes& other);
};

// Of one layer of the geometry. store: store_of() a spec. Of `kivi` what is no longer recent.
[[nodiscard]] StoredBytes stored_bytes(const format::Geometry& geometry, std::uint64_t layer,
                                       const CacheSpec& store);
// Of all of them.
[[nodiscard]] StoredBytes stored_bytes(const format::Geometry& geometry, const CacheSpec& store);

// Of one position in the layers that take most, where rows are turned back: K and V of one as the
// model makes them, and what is larger of the two as float32, unless they are that already.
struct WorkBytes {
  std::uint64_t key = 0;
  std::uint64_t value = 0;
  std::uint64_t wide = 0;
};
[[nodiscard]] WorkBytes work_bytes(const format::Geometry& geometry);

// As plan_cache(), of a policy that keeps rows.
[[nodiscard]] CachePlan plan_store(const format::Geometry& geometry, const BatchExtent& batch,
                                   const CacheSpec& store);

}  // namespace kvtool::cache
