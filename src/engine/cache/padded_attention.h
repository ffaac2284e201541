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

[[nodiscard]] AttentionParams params_of(const AttentionCall& call);

class PaddedAttention {
 public:
  // `shape` outlives this object.
  PaddedAttention(const BatchShape& shape, at::Device device) : shape_(shape), device_(device) {}

  // The first slot that a query of `call` over `slots` can see.
  [[nodiscard]] std::int64_t first_visible(const AttentionCall& call, SlotRange slots) const;

  // Queries of `call` stand at `slots`; keys [B, num_kv_heads, T, key_dim] and values hold the
  // slots up to slots.end(), at least from first_visible(). Returns [B, S, Hq, Dv], contiguous.
  at::Tensor attend(const AttentionCall& call, SlotRange slots, const at::Tensor& keys,
                    const at::Tensor& values);

 private:
  [[nodiscard]] at::Tensor attend_prompts(const AttentionCall& call, const at::Tensor& keys,
                                          const at::Tensor& values) const;
  [[nodiscard]] std::optional<at::Tensor> bias_for(const at::Tensor& q, SlotRange keys);

  const BatchShape& shape_;
  at::Device device_;
  std::optional<at::Tensor> bias_;  // padding, [B, 1, 1, capacity] in the queries' dtype
};

}  // namespace kvtool::engine
