#include "engine/cache/stored_cache.h"

#include <algorithm>

namespace kvtool::engine {

StoredCache::StoredCache(const RowLayout& layout, const BatchShape& shape, at::Device device)
    : layout_(layout),
      shape_(shape),
      device_(device),
      attention_(shape, device),
      filled_(layout.num_layers()) {}

void StoredCache::begin(SlotRange slots) {
  check_slots(shape_, slots);
  pass_ = slots;
  note(slots);
  filled_.begin();
}

void StoredCache::end() { filled_.end(); }

at::Tensor StoredCache::attend(const AttentionCall& call) {
  filled_.mark(call.layer);
  take_in(call);
  return attend_held(call);
}

at::Tensor StoredCache::attend_held(const AttentionCall& call) {
  const std::int64_t first = attention_.first_visible(call, pass_);
  const LayerKv rows = seen(call.layer, {first, pass_.end() - first});
  return attention_.attend(call, pass_, rows.k, rows.v);
}

void StoredCache::note(SlotRange slots) { end_ = std::max(end_, slots.end()); }

}  // namespace kvtool::engine
