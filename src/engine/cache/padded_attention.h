// Attention of a left-padded batch over the keys and values of one layer, however a
// cache keeps them: no query sees padding.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>

#include "engine/attention_op.h"
#include "engine/batch_shape.h"
#include "engine/cache/attention.h"
#include "engine/cache/kv_cache.h"

namespace kvtool::engine {

class PaddedAttention {
 public:
  // `shape` outlives this object.
  PaddedAttention(const BatchShape& shape, at::Device device) : shape_(&shape), device_(device) {}

  // The first slot that a query over `slots` can see.
  [[nodiscard]] std::int64_t first_visible(const AttentionParams& params, SlotRange slots) const;

  // Queries q [B, Hq, S, Dk] stand at `slots`; keys [B, num_kv_heads, T, key_dim] and values hold
  // the slots up to slots.end(), at least from first_visible(). Returns [B, S, Hq, Dv], contiguous.
  at::Tensor attend(const at::Tensor& q, const AttentionParams& params, SlotRange slots,
                    const LayerKv& rows);

 private:
  [[nodiscard]] at::Tensor attend_each(const at::Tensor& q, const AttentionParams& params,
                                       SlotRange slots, const LayerKv& rows) const;
  [[nodiscard]] std::optional<at::Tensor> bias_for(const at::Tensor& q, SlotRange keys);

  const BatchShape* shape_;
  at::Device device_;
  std::optional<at::Tensor> bias_;  // padding, [B, 1, 1, capacity] in the queries' dtype
};

}  // namespace kvtool::engine
