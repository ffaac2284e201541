// Attention of a block of queries over contiguous keys and values: plain ATen,
// the same code on every device.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>

namespace kvtool::engine {

class KeyTurn;

struct AttentionParams {
  double scale = 1.0;
  std::int64_t sliding_window = 0;  // 0: none
  double softcap = 0.0;             // 0: none
  std::optional<at::Tensor> sinks;  // [Hq]
  // F > 0 with a window: a query sees the first F keys as well, though the window does not reach
  // them, as long as they are less than `first_reach` positions away (0: however far).
  std::int64_t first_keys = 0;
  std::int64_t first_reach = 0;
  // The first keys stand right before the window, as if nothing were between: that many positions
  // nearer, by which `turn` turns them (null: no position turns keys).
  bool closes_up = false;
  const KeyTurn* turn = nullptr;

  // Positions between the first keys and the window of a query at `position`, if they close up.
  [[nodiscard]] std::int64_t gap(std::int64_t position) const {
    return closes_up && position >= first_keys + sliding_window
               ? position + 1 - first_keys - sliding_window
               : 0;
  }
};

// The same for queries up to the last of `positions` keys, without a window that hides none of
// them.
[[nodiscard]] AttentionParams simplified(const AttentionParams& params, std::int64_t positions);

// q [B, Hq, S, Dk]; keys [B, Hkv, T, Dk]; values [B, Hkv, T, Dv], T >= S; query
// i stands at key position T - S + i and sees the keys up to its own, at most
// `sliding_window` of them. `bias` is absent or [B, 1, 1, T] in q's dtype: 0 for
// keys that exist, -inf for left padding; every query must see a key. With `first_keys` there is
// no bias.
// Returns [B, Hq, S, Dv].
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                            const AttentionParams& params, const std::optional<at::Tensor>& bias);

// The masks of diagonal_attention(), which all layers of a pass with one window share.
class DiagonalMasks {
 public:
  // Additive, [1, 1, repeats * rows, columns + rows], for queries at first_query...: of recorded
  // keys first_key... those strictly before the query and inside its window, then of the own keys
  // the query's own. Before those stand `lead` keys of the first that the window does not reach.
  // One set of masks serves one device and dtype.
  const at::Tensor& get(std::int64_t first_query, std::int64_t rows, std::int64_t lead,
                        std::int64_t first_key, std::int64_t columns, const AttentionParams& params,
                        std::int64_t repeats, const at::TensorOptions& options);
  void clear() { masks_.clear(); }

 private:
  std::map<std::array<std::int64_t, 10>, at::Tensor> masks_;
};

// Many steps at once: query i stands at position T - S + i, sees keys and values
// [1, Hkv, T, D] of the positions before its own, and at its own position row i
// of own_k and own_v [1, Hkv, S, D]. q [1, Hq, S, Dk]; returns [1, Hq, S, Dv].
// Keys and values of the last position are not read.
at::Tensor diagonal_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                              const at::Tensor& own_k, const at::Tensor& own_v,
                              const AttentionParams& params, DiagonalMasks& masks);

}  // namespace kvtool::engine
