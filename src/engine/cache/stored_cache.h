// What the caches that hold all rows of a batch in slots have in common, however they keep
// them: the course of a pass, and attention over what it sees.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>

#include "engine/batch_shape.h"
#include "engine/cache/kv_cache.h"
#include "engine/cache/layer_check.h"
#include "engine/cache/padded_attention.h"
#include "engine/cache/selection/key_selector.h"

namespace kvtool::engine {

class StoredCache : public KvCache {
 public:
  // `layout` outlives the cache, `shape` likewise or until clear().
  StoredCache(const RowLayout& layout, const BatchShape& shape, at::Device device);

  // What its queries see of what it holds; before the first pass. Without a choice: everything.
  void select_with(std::unique_ptr<KeySelector> selector) { selector_ = std::move(selector); }
  [[nodiscard]] KeySelector* selector() const final { return selector_.get(); }

  // Unless a subclass keeps more than rows of the slots that were taken in.
  void clear(const BatchShape& shape) override;
  void begin(SlotRange slots) override;
  // Takes the call's rows in, then attends over all that its queries see.
  at::Tensor attend(const AttentionCall& call) final;
  void end() override;

  [[nodiscard]] const RowLayout& layout() const final { return layout_; }

 protected:
  // Keeps the call's K and V in the slots of the pass.
  virtual void take_in(const AttentionCall& call) = 0;
  // What a query of the pass sees of a layer's slots: [B, num_kv_heads, slots, dim] in the
  // model's type, until the next call of the cache.
  [[nodiscard]] virtual LayerKv seen(std::int64_t layer, SlotRange slots) = 0;
  // After take_in(), over all that the call's queries see: [B, S, Hq, Dv], contiguous.
  virtual at::Tensor attend_held(const AttentionCall& call);

  [[nodiscard]] PaddedAttention& padded_attention() { return attention_; }

  [[nodiscard]] const BatchShape& shape() const { return *shape_; }
  [[nodiscard]] at::Device device() const { return device_; }
  [[nodiscard]] SlotRange pass() const { return pass_; }
  // Error kMisuse, which says how full it is, unless it has the slots.
  void check_room(SlotRange slots) const;
  // `slots`, which it has, are taken in.
  void note(SlotRange slots);
  // Of `slots`, of all rows together, those that are not padding.
  [[nodiscard]] std::int64_t positions_in(SlotRange slots) const;
  // Of the slots that were ever taken in.
  [[nodiscard]] std::int64_t held_end() const { return end_; }
  // Of a cache whose rows, tables and work space take `bytes`, on its device.
  [[nodiscard]] cache::CacheUse use_with(std::uint64_t bytes) const;

  void count_steps(const AttentionCall& call) const;
  // Whether some row of the pass, which is one of steps, sees what its query chooses.
  [[nodiscard]] bool chooses(const AttentionCall& call) const;

 private:
  // Row by row, or all together where they stand at the same position.
  at::Tensor attend_chosen(const AttentionCall& call);

  const RowLayout& layout_;
  const BatchShape* shape_;  // of the current batch
  std::int64_t rows_;        // of every batch
  std::int64_t capacity_;    // likewise
  at::Device device_;
  std::unique_ptr<KeySelector> selector_;
  PaddedAttention attention_;
  LayerCheck filled_;  // in the current pass
  SlotRange pass_;
  std::int64_t end_ = 0;
};

}  // namespace kvtool::engine
