#include "replay_cache.h"

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"

namespace kvtool::run {

cache::CacheSpec replay_cache(const std::optional<cache::CacheSpec>& asked,
                              const ReferenceEntry& entry) {
  if (asked) return *asked;
  try {
    return cache::CacheSpec::parse(entry.kv_cache);
  } catch (const Error& error) {
    throw_incompatible(entry.path.string() + " was made with a cache that this kvtool lacks: " +
                       error.message() + "; choose one with " + setting("kv_cache"));
  }
}

}  // namespace kvtool::run
