// Brings a reference's K/V from its rows to the device.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Event.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/batch_shape.h"
#include "engine/cache/kv_cache.h"
#include "engine/row_layout.h"
#include "kvtool/format/row.h"

namespace kvtool::engine {

// K and V of one layer of the source's prompt, on the host; `layout` is the source's.
[[nodiscard]] LayerKv read_prompt_layer(const format::RowSource& source, const RowLayout& layout,
                                        std::int64_t layer);

// Rows of a batch that have the same reference: copies of a row may stand in for others.
struct ReferenceRows {
  const format::RowSource* reference = nullptr;  // not owned
  std::vector<std::int64_t> rows;                // ascending
};
[[nodiscard]] std::vector<ReferenceRows> rows_by_reference(
    std::span<const format::RowSource* const> references);

// Where the prompts of references go. All three outlive it.
struct PromptTarget {
  const RowLayout& layout;  // of the references
  const BatchShape& shape;
  KvCache& cache;

  void write(std::int64_t row, std::int64_t layer, const LayerKv& prompt) const;
};

// Host buffers for the deltas of whole steps, one for each step that is under way: it may be
// filled again once nobody reads it and the device has read it.
class ReferenceStage {
 public:
  // layout: of the references, see KvCache::write_slot().
  ReferenceStage(const RowLayout& layout, std::size_t buffers, std::int64_t batch,
                 at::Device device);

  // Where row `row`'s delta of a step goes: delta_bytes() long.
  std::span<std::byte> host_row(std::size_t buffer, std::int64_t row);
  // Overwrites slot `slot` of `rows` in the cache.
  void inject(std::size_t buffer, KvCache& cache, std::int64_t slot,
              std::span<const std::int64_t> rows);

 private:
  struct Buffer {
    at::Tensor host;  // u8 [B, row_stride_bytes], pinned on CUDA
    std::optional<c10::Event> read;
  };

  const RowLayout& layout_;
  std::vector<Buffer> buffers_;
  at::Tensor device_rows_;  // undefined on the CPU
};

}  // namespace kvtool::engine
