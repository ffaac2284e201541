// The one place where a run is held to the cache policy that it names.
#pragma once

#include "kvtool/cache/applied.h"

namespace kvtool::run {

// Error kEnvironment where what a batch took shows that the policy did not act.
void check_applied(const cache::CacheSpec& kv_cache, const cache::RunLength& run,
                   const cache::CacheUse& use);

}  // namespace kvtool::run
