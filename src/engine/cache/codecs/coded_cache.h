// A cache that keeps every row through a codec: one buffer per layer and plane, allocated
// once, rows appended in place. To attend it turns the visible rows of one layer back, in
// work space that all layers share.
//
// Every query, those of a prompt as those of a step, sees rows as the codec keeps them, its
// own included: a state does not depend on how its positions were divided into passes.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/cache/codecs/row_codec.h"
#include "engine/cache/row_buffer.h"
#include "engine/cache/stored_cache.h"
#include "engine/cache/work_space.h"

namespace kvtool::engine {

class CodedCache : public StoredCache {
 public:
  // Error kIncompatible where the codec cannot keep the layout's rows. `layout` and `shape`
  // outlive the cache.
  CodedCache(std::unique_ptr<RowCodec> codec, const RowLayout& layout, const BatchShape& shape,
             at::Device device);

  void clear(const BatchShape& shape) override;
  void read_slot(std::int64_t slot, const at::Tensor& deltas) const override;
  void write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                  std::span<const std::int64_t> rows) override;
  void read(const LayerRows& where, const LayerKv& kv) const override;
  void write(const LayerRows& where, const LayerKv& kv) override;
  [[nodiscard]] LayerKv as_kept(const LayerRows& where, const LayerKv& kv) const override;
  [[nodiscard]] cache::CacheUse use() const override;

 protected:
  void take_in(const AttentionCall& call) override;
  // In work space.
  [[nodiscard]] LayerKv seen(std::int64_t layer, SlotRange slots) override;

 private:
  using Planes = std::vector<at::Tensor>;
  // Views into storage_, [B, heads, capacity, width].
  struct CodedLayer {
    Planes k;
    Planes v;
  };

  void allocate_storage();
  void allocate_wide_space();
  // Of all rows of an entry in float32; 0 where they are that already.
  [[nodiscard]] std::int64_t wide_bytes(const RowLayout::Entry& entry) const;
  // Slots of all rows, in `space` [B, heads, capacity, dim]: [B, heads, slots, dim].
  [[nodiscard]] at::Tensor decode_slots(const Planes& planes, const RowLayout::Entry& entry,
                                        const at::Tensor& space, SlotRange slots) const;
  // Lets the codec look at `kv` where it is a row's prompt.
  void measure(const LayerRows& where, const LayerKv& kv) const;
  // rows [.., heads, slots, dim], of any type and device.
  void encode(const at::Tensor& rows, const RowLayout::Entry& entry, const Planes& planes) const;
  // Into `rows` of any device; without work space, so on any thread.
  void decode(const Planes& planes, const at::Tensor& rows) const;
  // Of a layer's planes the one that all positions share, [B, heads, 1, width]; undefined without.
  [[nodiscard]] at::Tensor shared_of(const Planes& planes, const RowLayout::Entry& entry) const;
  // `slots` took in `rows` rows of a layer.
  void note_applied(SlotRange slots, std::int64_t rows);

  std::unique_ptr<RowCodec> codec_;
  std::vector<Planes> storage_;  // per layout group: [entries, B, heads, capacity, width]
  std::vector<CodedLayer> layers_;
  WorkSpace work_;
  at::Tensor wide_space_;           // u8, room for the largest layer's K or V in float32
  std::uint64_t applied_rows_ = 0;  // of one layer
};

}  // namespace kvtool::engine
