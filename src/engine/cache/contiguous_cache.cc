#include "engine/cache/contiguous_cache.h"

namespace kvtool::engine {

ContiguousCache::ContiguousCache(const RowLayout& layout, const BatchShape& shape,
                                 at::Device device)
    : StoredCache(layout, shape, device), rows_(layout, shape.rows(), shape.capacity(), device) {}

void ContiguousCache::take_in(const AttentionCall& call) {
  const LayerKv kept = seen(call.layer, pass());
  kept.k.copy_(call.k);
  kept.v.copy_(call.v);
}

LayerKv ContiguousCache::seen(std::int64_t layer, SlotRange slots) {
  const LayerKv& kept = rows_.layer(layer);
  return {kept.k.narrow(2, slots.first, slots.count), kept.v.narrow(2, slots.first, slots.count)};
}

void ContiguousCache::read(const LayerRows& where, const LayerKv& kv) const {
  const LayerKv kept = row_slots(rows_.layer(where.layer), where.row, where.slots);
  kv.k.copy_(kept.k);
  kv.v.copy_(kept.v);
}

void ContiguousCache::write(const LayerRows& where, const LayerKv& kv) {
  note(where.slots);
  const LayerKv kept = row_slots(rows_.layer(where.layer), where.row, where.slots);
  kept.k.copy_(kv.k);
  kept.v.copy_(kv.v);
}

cache::CacheUse ContiguousCache::use() const { return use_with(rows_.nbytes()); }

void ContiguousCache::read_slot(std::int64_t slot, const at::Tensor& deltas) const {
  rows_.read_slot(slot, deltas);
}

void ContiguousCache::write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                                 std::span<const std::int64_t> rows) {
  note({slot, 1});
  rows_.write_slot(slot, deltas, from, rows);
}

void ContiguousCache::write_slots(std::int64_t row, std::int64_t first_slot,
                                  const at::Tensor& deltas, const RowLayout& from) {
  if (!from.groups_match(layout())) {
    KvCache::write_slots(row, first_slot, deltas, from);
    return;
  }
  note({first_slot, deltas.size(0)});
  rows_.write_slots(row, first_slot, deltas, from);
}

}  // namespace kvtool::engine
