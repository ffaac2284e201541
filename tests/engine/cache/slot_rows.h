// One slot of a cache, read back.
#pragma once

#include <ATen/ATen.h>

#include "engine/batch_shape.h"
#include "engine/cache/kv_cache.h"

namespace kvtool::engine {

// All layers and rows, u8 [B, row stride]; the gaps between entries are zero.
inline at::Tensor read_slot(const KvCache& cache, const BatchShape& shape, std::int64_t slot) {
  at::Tensor deltas = at::zeros({shape.rows(), cache.layout().row_stride_bytes()}, at::kByte);
  cache.read_slot(slot, deltas);
  return deltas;
}

// One layer: [B, num_kv_heads, 1, dim].
inline LayerKv read_layer(const KvCache& cache, const BatchShape& shape, std::int64_t layer,
                          std::int64_t slot) {
  const at::Tensor deltas = read_slot(cache, shape, slot);
  return {cache.layout().entry_view(deltas, cache.layout().key(layer)),
          cache.layout().entry_view(deltas, cache.layout().value(layer))};
}

}  // namespace kvtool::engine
