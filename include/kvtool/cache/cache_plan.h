// What a cache will take, computed without allocating it.
#pragma once

#include <cstdint>

#include "kvtool/cache/cache_spec.h"
#include "kvtool/format/geometry.h"

namespace kvtool::cache {

// The buffer of a batch: `positions` of each of `rows`, padding included.
struct BatchExtent {
  std::uint64_t rows = 1;
  std::uint64_t positions = 0;
  std::uint64_t prompt = 0;  // of them, those that the first pass takes in
};

struct CachePlan {
  std::uint64_t logical_bytes = 0;  // K and V as large as the model makes them
  std::uint64_t kept_bytes = 0;  // as the policy keeps them, scales and what it chooses by included
  std::uint64_t work_bytes = 0;  // where the rows of one layer are turned back
  std::uint64_t prompt_bytes = 0;  // more, while the prompt is taken in

  [[nodiscard]] std::uint64_t physical_bytes() const { return kept_bytes + work_bytes; }
  [[nodiscard]] std::uint64_t peak_bytes() const { return physical_bytes() + prompt_bytes; }
};

// The policy that keeps the rows: its own, or the one that its option `codec` names.
[[nodiscard]] CacheSpec store_of(const CacheSpec& spec);
// Of that policy.
[[nodiscard]] const RowStorage& storage_of(const CacheSpec& spec);

// Equals what the engine allocates (CacheUse::physical_bytes, once the steps have begun). Error
// kUsage where the sizes do not fit into 64 bits, kMisuse where the spec's policy is not in
// policies().
[[nodiscard]] CachePlan plan_cache(const format::Geometry& geometry, const BatchExtent& batch,
                                   const CacheSpec& spec);

// Of them, what a policy that chooses pages keeps of each to choose by.
[[nodiscard]] std::uint64_t page_summary_bytes(const format::Geometry& geometry,
                                               const BatchExtent& batch, const CacheSpec& spec);

// `positions` of each of the batch's rows, `position_bytes` each. Error kUsage where that does
// not fit into 64 bits.
[[nodiscard]] std::uint64_t bytes_of_batch(const BatchExtent& batch, std::uint64_t positions,
                                           std::uint64_t position_bytes);

}  // namespace kvtool::cache
