#include "kvtool/cache/cache_plan.h"

#include <algorithm>
#include <string>

#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"
#include "kvtool/cache/key_budget.h"

namespace kvtool::cache {
namespace {

const PolicyInfo& policy_of(const CacheSpec& spec) {
  for (const PolicyInfo& policy : policies()) {
    if (policy.name == spec.policy()) return policy;
  }
  throw_misuse("no plan for the cache '" + spec.to_string() + "': its policy is not known");
}

// K or V of one layer at one position.
struct Rows {
  std::uint64_t heads;
  std::uint64_t dim;
  DType dtype;

  // Of the numbers that a policy keeps of a page.
  [[nodiscard]] std::uint64_t page_bytes(std::uint32_t numbers) const {
    return heads * dim * numbers * sizeof(float);
  }
  [[nodiscard]] std::uint64_t logical_bytes() const { return heads * dim * element_size(dtype); }
  [[nodiscard]] std::uint64_t kept_bytes(const RowStorage& storage) const {
    if (storage.element_bits == 0) return logical_bytes();
    return heads * ((dim * storage.element_bits + 7) / 8 + storage.scale_bytes);
  }
  // As float32, on the way to another type.
  [[nodiscard]] std::uint64_t wide_bytes() const {
    return dtype == DType::kFloat32 ? 0 : heads * dim * sizeof(float);
  }
};

// Work space, all layers use the same: K and V of one as the model makes them, and what is
// larger of the two as float32.
struct WorkSpace {
  std::uint64_t key = 0;
  std::uint64_t value = 0;
  std::uint64_t wide = 0;

  void fit(const Rows& k, const Rows& v) {
    key = std::max(key, k.logical_bytes());
    value = std::max(value, v.logical_bytes());
    wide = std::max({wide, k.wide_bytes(), v.wide_bytes()});
  }
};

}  // namespace

std::uint64_t bytes_of_batch(const BatchExtent& batch, std::uint64_t positions,
                             std::uint64_t position_bytes) {
  const auto all = checked_mul(batch.rows, positions);
  const auto bytes = all ? checked_mul(*all, position_bytes) : std::nullopt;
  if (bytes) return *bytes;
  throw_usage("a cache of " + std::to_string(batch.rows) + " rows of " +
              std::to_string(batch.positions) + " positions is larger than 64 bits can say");
}

const RowStorage& storage_of(const CacheSpec& spec) {
  const PolicyInfo& policy = policy_of(spec);
  if (!spec.has(kStoreOption.name)) return policy.storage;
  const std::string& store = spec.word(kStoreOption.name);
  return store == kStoreOption.fallback ? policy.storage
                                        : policy_of(CacheSpec::parse(store)).storage;
}

CachePlan plan_cache(const format::Geometry& geometry, const BatchExtent& batch,
                     const CacheSpec& spec) {
  const PolicyInfo& policy = policy_of(spec);
  if (policy.plan != nullptr) return policy.plan(geometry, batch, spec);
  const RowStorage& storage = storage_of(spec);
  std::uint64_t once = 0;  // of a row
  // Of one position: the caps of a geometry keep these sums far below 64 bits.
  const KeyBudget budget(spec);
  const std::uint32_t numbers = policy.page_numbers;
  std::uint64_t kept = 0;
  std::uint64_t page = 0;
  WorkSpace work;
  std::uint64_t index = 0;
  for (const format::LayerGeometry& layer : geometry.layers()) {
    const Rows k{layer.num_kv_heads, layer.key_dim, layer.key_dtype};
    const Rows v{layer.num_kv_heads, layer.value_dim, layer.value_dtype};
    kept += k.kept_bytes(storage) + v.kept_bytes(storage);
    once += (k.heads + v.heads) * storage.head_bytes;
    if (budget.selects(index++)) page += k.page_bytes(numbers);
    if (storage.element_bits != 0) work.fit(k, v);
  }
  const auto of_batch = [&](std::uint64_t positions, std::uint64_t bytes) {
    return bytes_of_batch(batch, positions, bytes);
  };
  return {of_batch(batch.positions, geometry.position_bytes()),
          of_batch(batch.positions, kept) + of_batch(batch.positions / budget.page(), page) +
              of_batch(1, once),
          of_batch(batch.positions, work.key + work.value + work.wide)};
}

}  // namespace kvtool::cache
