#include "kvtool/cache/cache_plan.h"

#include <string>

#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"
#include "kvtool/cache/key_budget.h"
#include "stored_bytes.h"

namespace kvtool::cache {
namespace {

const PolicyInfo& policy_of(std::string_view name) {
  for (const PolicyInfo& policy : policies()) {
    if (policy.name == name) return policy;
  }
  throw_misuse("no plan for the cache '" + std::string(name) + "': its policy is not known");
}

// Of rows that are kept all in the same way, each on its own.
CachePlan plan_rows(const format::Geometry& geometry, const BatchExtent& batch,
                    const CacheSpec& store) {
  const StoredBytes bytes = stored_bytes(geometry, store);
  const bool is_coded = storage_of(store).element_bits != 0;
  const WorkBytes work = is_coded ? work_bytes(geometry) : WorkBytes();
  const auto of_batch = [&](std::uint64_t positions, std::uint64_t each) {
    return bytes_of_batch(batch, positions, each);
  };
  CachePlan plan;
  plan.logical_bytes = of_batch(batch.positions, geometry.position_bytes());
  plan.kept_bytes = of_batch(batch.positions, bytes.position) + of_batch(1, bytes.row);
  plan.work_bytes = of_batch(batch.positions, work.key + work.value + work.wide);
  return plan;
}

}  // namespace

CachePlan plan_store(const format::Geometry& geometry, const BatchExtent& batch,
                     const CacheSpec& store) {
  const PolicyInfo& policy = policy_of(store.policy());
  if (policy.plan != nullptr) return policy.plan(geometry, batch, store);
  return plan_rows(geometry, batch, store);
}

std::uint64_t bytes_of_batch(const BatchExtent& batch, std::uint64_t positions,
                             std::uint64_t position_bytes) {
  const auto all = checked_mul(batch.rows, positions);
  const auto bytes = all ? checked_mul(*all, position_bytes) : std::nullopt;
  if (bytes) return *bytes;
  throw_usage("a cache of " + std::to_string(batch.rows) + " rows of " +
              std::to_string(batch.positions) + " positions is larger than 64 bits can say");
}

CacheSpec store_of(const CacheSpec& spec) {
  if (!spec.has(kStoreOption.name)) return spec;
  constexpr std::string_view kGroups = "kivi";
  const std::string& word = spec.word(kStoreOption.name);
  if (word == kStoreOption.fallback) return CacheSpec();
  if (!word.starts_with(kGroups)) return CacheSpec::parse(word);
  const std::string bits = word.substr(kGroups.size());
  return CacheSpec::parse("kivi:k=" + bits + ",v=" + bits);
}

const RowStorage& storage_of(const CacheSpec& spec) {
  return policy_of(store_of(spec).policy()).storage;
}

std::uint64_t page_summary_bytes(const format::Geometry& geometry, const BatchExtent& batch,
                                 const CacheSpec& spec) {
  const KeyBudget budget(spec);
  std::uint64_t bytes = 0;  // of a page
  std::uint64_t index = 0;
  for (const format::LayerGeometry& layer : geometry.layers()) {
    if (!budget.selects(index++)) continue;
    bytes += layer.num_kv_heads * layer.key_dim * policy_of(budget.selection()).page_numbers *
             sizeof(float);
  }
  return bytes_of_batch(batch, batch.positions / budget.page(), bytes);
}

CachePlan plan_cache(const format::Geometry& geometry, const BatchExtent& batch,
                     const CacheSpec& spec) {
  const PolicyInfo& policy = policy_of(spec.policy());
  if (policy.plan != nullptr) return policy.plan(geometry, batch, spec);
  CachePlan plan = plan_store(geometry, batch, store_of(spec));
  plan.kept_bytes += page_summary_bytes(geometry, batch, spec);
  return plan;
}

}  // namespace kvtool::cache
