#include "applied_check.h"

#include "kvtool/base/error.h"

namespace kvtool::run {

void check_applied(const cache::CacheSpec& kv_cache, const cache::RunLength& run,
                   const cache::CacheUse& use) {
  const std::optional<std::string> reason = cache::not_applied(kv_cache, run, use);
  if (!reason) return;
  throw_environment("the K/V cache " + kv_cache.to_string() + " did not act: " + *reason + ", in " +
                    std::to_string(run.steps) + " steps up to position " +
                    std::to_string(run.positions) + "; what was measured is not this cache");
}

}  // namespace kvtool::run
