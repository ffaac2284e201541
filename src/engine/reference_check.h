// Whether recordings can be replayed on a model, and as one batch.
#pragma once

#include <cstdint>

#include "engine/gathered_ids.h"
#include "kvtool/engine/api.h"
#include "kvtool/format/geometry.h"

namespace kvtool::engine {

// What the recordings of one batch have in common.
struct ReferenceFormat {
  std::uint32_t top_k = 1;    // 1 to the vocabulary
  GatheredLogits gathered;    // of a replay; their top-k, which may be none, and their sample
  format::Geometry geometry;  // the model's but, if that is allowed, for dtypes
};

// Error kIncompatible when a recording does not belong to `model` or the
// recordings not to one batch, kMisuse when there are none. Layers, heads, dims
// and the vocabulary must be the model's; weights, K/V dtypes and the logits'
// dtype as well unless `allow_different_weights`.
[[nodiscard]] ReferenceFormat check_references(const ModelInfo& model, const ReplayBatch& batch,
                                               bool allow_different_weights);

}  // namespace kvtool::engine
