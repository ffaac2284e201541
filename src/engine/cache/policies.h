// Makes the cache that a spec names.
#pragma once

#include "engine/cache/kv_cache.h"
#include "engine/key_rotations.h"
#include "kvtool/cache/cache_spec.h"

namespace kvtool::engine {

// Of a model whose positions turn keys as `rotations` say. Error kUsage where the cache has to turn
// keys and there are none, kMisuse for a policy that is not in cache::policies().
[[nodiscard]] CacheMaker cache_maker(const cache::CacheSpec& spec,
                                     const KeyRotations& rotations = {});

}  // namespace kvtool::engine
