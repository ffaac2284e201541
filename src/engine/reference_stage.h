// Brings a reference's K/V from its rows to the device.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Event.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/cache/kv_cache.h"
#include "engine/row_layout.h"
#include "kvtool/format/row.h"

namespace kvtool::engine {

// Overwrites the prompt of one row in the cache with the source's, whose layout
// is `layout`.
void inject_prefill(const format::RowSource& source, const RowLayout& layout, KvCache& cache,
                    std::int64_t row, std::int64_t first_slot);

// Host buffers for the deltas of whole steps, used in turn: a buffer is reused
// once the device has read it.
class ReferenceStage {
 public:
  // layout: of the references, see KvCache::write_slot().
  ReferenceStage(const RowLayout& layout, std::int64_t batch, at::Device device);

  // Where row `row`'s delta of the next injection goes: delta_bytes() long.
  std::span<std::byte> host_row(std::int64_t row);
  // Overwrites slot `slot` of `rows` in the cache and moves to the next buffer.
  void inject(KvCache& cache, std::int64_t slot, std::span<const std::int64_t> rows);

 private:
  struct Buffer {
    at::Tensor host;  // u8 [B, row_stride_bytes], pinned on CUDA
    std::optional<c10::Event> read;
  };

  const RowLayout& layout_;
  std::vector<Buffer> buffers_;
  at::Tensor device_rows_;  // undefined on the CPU
  std::size_t next_ = 0;
};

}  // namespace kvtool::engine
