#include "engine/cache/kv_cache.h"

namespace kvtool::engine {

void KvCache::write_slots(std::int64_t row, std::int64_t first_slot, const at::Tensor& deltas,
                          const RowLayout& from) {
  const SlotRange slots{first_slot, deltas.size(0)};
  for (std::int64_t layer = 0; layer < layout().num_layers(); ++layer) {
    write({layer, row, slots}, from.layer_rows(deltas, layer));
  }
}

}  // namespace kvtool::engine
