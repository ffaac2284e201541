// The plain cache: one buffer per layer for K and one for V, allocated once,
// rows appended in place.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>

#include "engine/cache/row_buffer.h"
#include "engine/cache/stored_cache.h"

namespace kvtool::engine {

class ContiguousCache : public StoredCache {
 public:
  // Allocates [rows, num_kv_heads, capacity, dim] for every layer's K and V. `layout` and
  // `shape` outlive the cache.
  ContiguousCache(const RowLayout& layout, const BatchShape& shape, at::Device device);

  void read_slot(std::int64_t slot, const at::Tensor& deltas) const override;
  void write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                  std::span<const std::int64_t> rows) override;
  void write_slots(std::int64_t row, std::int64_t first_slot, const at::Tensor& deltas,
                   const RowLayout& from) override;
  void read(const LayerRows& where, const LayerKv& kv) const override;
  void write(const LayerRows& where, const LayerKv& kv) override;
  [[nodiscard]] cache::CacheUse use() const override;

 protected:
  void take_in(const AttentionCall& call) override;
  // Views of the rows themselves.
  [[nodiscard]] LayerKv seen(std::int64_t layer, SlotRange slots) override;

 private:
  RowBuffer rows_;
};

}  // namespace kvtool::engine
