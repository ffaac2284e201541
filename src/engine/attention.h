// Attention of a block of queries over contiguous keys and values: plain ATen,
// the same code on every device.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>

namespace kvtool::engine {

struct AttentionParams {
  double scale = 1.0;
  std::int64_t sliding_window = 0;  // 0: none
  double softcap = 0.0;             // 0: none
  std::optional<at::Tensor> sinks;  // [Hq]
};

// q [B, Hq, S, Dk]; keys [B, Hkv, T, Dk]; values [B, Hkv, T, Dv], T >= S; query
// i stands at key position T - S + i and sees the keys up to its own, at most
// `sliding_window` of them. `bias` is absent or [B, 1, 1, T] in q's dtype: 0 for
// keys that exist, -inf for left padding; every query must see a key.
// Returns [B, Hq, S, Dv].
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                            const AttentionParams& params, const std::optional<at::Tensor>& bias);

}  // namespace kvtool::engine
