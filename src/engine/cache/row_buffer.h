// Rows of all layers as the model made them, slot by slot, in tensors that whole steps are
// copied to and from.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <vector>

#include "engine/cache/kv_cache.h"
#include "engine/row_layout.h"

namespace kvtool::engine {

class RowBuffer {
 public:
  enum class Fill : std::uint8_t { kNothing, kZeros };

  RowBuffer() = default;
  // Of `rows` batch rows; filled with zeros, or with whatever the memory holds. pinned: host
  // memory that a device copies to and from without a detour. `layout` outlives it.
  RowBuffer(const RowLayout& layout, std::int64_t rows, std::int64_t slots, at::Device device,
            Fill fill = Fill::kNothing, bool pinned = false);

  [[nodiscard]] bool is_empty() const { return storage_.empty(); }
  // Views [B, heads, slots, dim].
  [[nodiscard]] const LayerKv& layer(std::int64_t layer) const {
    return layers_[static_cast<std::size_t>(layer)];
  }
  [[nodiscard]] std::uint64_t nbytes() const;
  void zero() const;

  // As KvCache::read_slot() and so on, whose slots are those of the buffer.
  void read_slot(std::int64_t slot, const at::Tensor& deltas) const;
  void write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                  std::span<const std::int64_t> rows);
  // Of layouts whose groups match.
  void write_slots(std::int64_t row, std::int64_t first_slot, const at::Tensor& deltas,
                   const RowLayout& from);

 private:
  const RowLayout* layout_ = nullptr;
  std::vector<at::Tensor> storage_;  // one per layout group: [entries, B, heads, slots, dim]
  std::vector<LayerKv> layers_;      // views into storage_
};

void copy_rows(const LayerKv& from, const LayerKv& to);

// Slots of one batch row: [heads, slots, dim].
[[nodiscard]] LayerKv row_slots(const LayerKv& rows, std::int64_t row, SlotRange slots);

}  // namespace kvtool::engine
