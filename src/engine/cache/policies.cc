#include "engine/cache/policies.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "engine/cache/codecs/coded_cache.h"
#include "engine/cache/codecs/kivi_cache.h"
#include "engine/cache/codecs/row_codecs.h"
#include "engine/cache/contiguous_cache.h"
#include "engine/cache/paging/paged_cache.h"
#include "engine/cache/selection/page_selector.h"
#include "engine/cache/selection/window_selector.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/cache/cache_plan.h"
#include "kvtool/cache/key_budget.h"

namespace kvtool::engine {
namespace {

struct Policy {
  std::string_view name;
  std::unique_ptr<StoredCache> (*make)(const cache::CacheSpec& spec, const RowLayout& layout,
                                       const BatchShape& shape, at::Device device);
};

std::unique_ptr<StoredCache> make_coded(const cache::CacheSpec& spec, const RowLayout& layout,
                                        const BatchShape& shape, at::Device device) {
  return std::make_unique<CodedCache>(make_row_codec(spec), layout, shape, device);
}

std::unique_ptr<StoredCache> make_contiguous(const cache::CacheSpec&, const RowLayout& layout,
                                             const BatchShape& shape, at::Device device) {
  return std::make_unique<ContiguousCache>(layout, shape, device);
}

std::unique_ptr<StoredCache> make_kivi(const cache::CacheSpec& spec, const RowLayout& layout,
                                       const BatchShape& shape, at::Device device) {
  return std::make_unique<KiviCache>(cache::kivi_settings(spec), layout, shape, device);
}

// Those that keep rows, and show all of them.
constexpr std::array kStores = {Policy{"contiguous", make_contiguous}, Policy{"int8", make_coded},
                                Policy{"fp8", make_coded}, Policy{"kivi", make_kivi}};

// As the option "codec" says.
std::unique_ptr<StoredCache> make_store(const cache::CacheSpec& spec, const RowLayout& layout,
                                        const BatchShape& shape, at::Device device) {
  const cache::CacheSpec store = cache::store_of(spec);
  for (const Policy& policy : kStores) {
    if (policy.name == store.policy()) return policy.make(store, layout, shape, device);
  }
  throw_misuse("the cache '" + store.to_string() + "' keeps no rows for others");
}

std::unique_ptr<StoredCache> make_paged(const cache::CacheSpec& spec, const RowLayout& layout,
                                        const BatchShape& shape, at::Device device) {
  const cache::PagedSettings settings = cache::paged_settings(spec);
  const auto positions = static_cast<std::uint64_t>(shape.capacity());
  const std::uint64_t frames =
      settings.frames(layout.geometry(),
                      {.rows = static_cast<std::uint64_t>(shape.rows()), .positions = positions});
  // With room for everything pages stand side by side, in order, and none ever moves.
  std::unique_ptr<PageSelector> selector;
  if (cache::KeyBudget(spec).selects_pages()) {
    selector = std::make_unique<PageSelector>(spec, layout, shape, device);
  }
  if (frames < settings.pages(positions)) {
    return std::make_unique<PagedCache>(settings, static_cast<std::int64_t>(frames), layout, shape,
                                        device, std::move(selector));
  }
  std::unique_ptr<StoredCache> store = make_store(spec, layout, shape, device);
  if (selector) store->select_with(std::move(selector));
  return store;
}

std::unique_ptr<StoredCache> make_window(const cache::CacheSpec& spec, const RowLayout& layout,
                                         const BatchShape& shape, at::Device device) {
  std::unique_ptr<StoredCache> store = make_store(spec, layout, shape, device);
  store->select_with(std::make_unique<WindowSelector>(spec));
  return store;
}

std::unique_ptr<StoredCache> make_pages(const cache::CacheSpec& spec, const RowLayout& layout,
                                        const BatchShape& shape, at::Device device) {
  std::unique_ptr<StoredCache> store = make_store(spec, layout, shape, device);
  store->select_with(std::make_unique<PageSelector>(spec, layout, shape, device));
  return store;
}

// The other half of cache::kPolicies, which says what they are without torch.
constexpr std::array kMakers = {
    Policy{"contiguous", make_contiguous},
    Policy{"int8", make_coded},
    Policy{"fp8", make_coded},
    Policy{"kivi", make_kivi},
    Policy{"paged", make_paged},
    Policy{"window", make_window},
    Policy{"quest", make_pages},
    Policy{"mean-key", make_pages},
    Policy{"mean-deviation", make_pages},
    Policy{"mass", make_pages},
    Policy{"random", make_pages},
};
static_assert(std::equal(kMakers.begin(), kMakers.end(), cache::kPolicies.begin(),
                         cache::kPolicies.end(),
                         [](const Policy& maker, const cache::PolicyInfo& info) {
                           return maker.name == info.name;
                         }),
              "a policy lacks its row here or in kvtool/cache/policies.h");

// A window whose sinks are turned to where they stand in the cache.
CacheMaker closing_window_maker(const cache::CacheSpec& spec, const KeyRotations& rotations) {
  if (!rotations.why_none.empty() || rotations.layers.empty()) {
    throw_usage(setting("kv_cache") + " " + spec.to_string() +
                ": positions=cache turns keys to other positions, which takes a model whose "
                "positions do nothing but turn queries and keys: " +
                rotations.why_none + "; else use positions=original");
  }
  return [spec, rotations](const RowLayout& layout, const BatchShape& shape, at::Device device) {
    std::unique_ptr<StoredCache> store = make_store(spec, layout, shape, device);
    store->select_with(std::make_unique<WindowSelector>(spec, key_turns(rotations, device)));
    store->set_spec(spec.to_string());
    return store;
  };
}

}  // namespace

CacheMaker cache_maker(const cache::CacheSpec& spec, const KeyRotations& rotations) {
  if (cache::KeyBudget(spec).closes_up()) return closing_window_maker(spec, rotations);
  for (const Policy& policy : kMakers) {
    if (policy.name != spec.policy()) continue;
    return [make = policy.make, spec](const RowLayout& layout, const BatchShape& shape,
                                      at::Device device) {
      std::unique_ptr<KvCache> cache = make(spec, layout, shape, device);
      cache->set_spec(spec.to_string());
      return cache;
    };
  }
  throw_misuse("the engine has no cache '" + spec.to_string() + "'");
}

}  // namespace kvtool::engine
