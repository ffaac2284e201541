#include "engine/cache/spare_cache.h"

#include <utility>

#include "engine/cache/policies.h"

namespace kvtool::engine {

CacheMaker SpareCache::maker(const cache::CacheSpec& spec, const KeyRotations& rotations) {
  return [this, name = spec.to_string(), make = cache_maker(spec, rotations)](
             const RowLayout& layout, const BatchShape& shape, at::Device device) {
    Size wanted{name, shape.rows(), shape.capacity()};
    if (cache_ && size_ == wanted) {
      cache_->clear(shape);
      return std::move(cache_);
    }
    drop();
    size_ = std::move(wanted);
    return make(layout, shape, device);
  };
}

void SpareCache::give_back(std::unique_ptr<KvCache> cache) { cache_ = std::move(cache); }

}  // namespace kvtool::engine
