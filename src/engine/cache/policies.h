// Makes the cache that a spec names.
#pragma once

#include "engine/cache/kv_cache.h"
#include "kvtool/cache/cache_spec.h"

namespace kvtool::engine {

// Error kMisuse for a policy that is not in cache::policies().
[[nodiscard]] CacheMaker cache_maker(const cache::CacheSpec& spec);

}  // namespace kvtool::engine
