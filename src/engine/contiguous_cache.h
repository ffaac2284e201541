// The plain cache: one buffer per layer for K and one for V, allocated once,
// rows appended in place.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/attention_op.h"
#include "engine/batch_shape.h"
#include "engine/layer_check.h"
#include "engine/row_layout.h"

namespace kvtool::engine {

class ContiguousCache : public CachePolicy {
 public:
  // Allocates [rows, num_kv_heads, capacity, dim] for every layer's K and V.
  ContiguousCache(const RowLayout& layout, const BatchShape& shape, at::Device device);

  // The next forward pass fills slots [first_slot, first_slot + positions).
  void begin(std::int64_t first_slot, std::int64_t positions);
  at::Tensor attend(const AttentionCall& call) override;
  // Ends the pass. Error kIncompatible when a layer was not filled.
  void end() const;

  [[nodiscard]] std::int64_t first_slot() const { return first_slot_; }

  // Views of one row's slots: key [num_kv_heads, count, key_dim], value likewise.
  [[nodiscard]] at::Tensor key_rows(std::int64_t layer, std::int64_t row, std::int64_t first_slot,
                                    std::int64_t count) const;
  [[nodiscard]] at::Tensor value_rows(std::int64_t layer, std::int64_t row, std::int64_t first_slot,
                                      std::int64_t count) const;

  // K and V of one layer and slot, all rows: views [B, num_kv_heads, 1, dim].
  [[nodiscard]] at::Tensor key_slot(std::int64_t layer, std::int64_t slot) const;
  [[nodiscard]] at::Tensor value_slot(std::int64_t layer, std::int64_t slot) const;

  // Copies what the cache holds at `slot` of all layers and rows to deltas, u8
  // [B, row stride] on the device. The gaps between entries stay as they are.
  void gather(const at::Tensor& deltas, std::int64_t slot) const;
  // The inverse, for the rows named in `rows` (all of them when it is empty).
  // `layout` says how deltas are laid out: layers, heads and dims are those of
  // this cache, other dtypes are converted.
  void inject(const at::Tensor& deltas, const RowLayout& layout, std::int64_t slot,
              const std::vector<std::int64_t>& rows);
  // The same for one row and the slots from `first_slot` on: deltas u8 [slots, row stride].
  void inject_slots(const at::Tensor& deltas, const RowLayout& layout, std::int64_t row,
                    std::int64_t first_slot);

 private:
  at::Tensor attend_prefill(const AttentionCall& call, const at::Tensor& keys,
                            const at::Tensor& values) const;
  [[nodiscard]] std::optional<at::Tensor> bias_for(const at::Tensor& q, std::int64_t positions);

  const RowLayout& layout_;
  const BatchShape& shape_;
  at::Device device_;
  std::vector<at::Tensor> storage_;  // one per layout group: [entries, B, heads, capacity, dim]
  std::vector<at::Tensor> keys_;     // per layer, views into storage_
  std::vector<at::Tensor> values_;
  std::optional<at::Tensor> bias_;  // padding, [B, 1, 1, capacity] in the queries' dtype
  LayerCheck filled_;               // in the current pass
  std::int64_t first_slot_ = 0;
  std::int64_t positions_ = 0;
};

}  // namespace kvtool::engine
