#include "engine/cache/contiguous_cache.h"

namespace kvtool::engine {
namespace {

// Dimension `row_dim` of both is the row; no rows stand for all.
void overwrite(const at::Tensor& target, const at::Tensor& source, std::int64_t row_dim,
               std::span<const std::int64_t> rows) {
  if (rows.empty()) {
    target.copy_(source);
    return;
  }
  for (const std::int64_t row : rows) {
    target.select(row_dim, row).copy_(source.select(row_dim, row));
  }
}

}  // namespace

ContiguousCache::ContiguousCache(const RowLayout& layout, const BatchShape& shape,
                                 at::Device device)
    : StoredCache(layout, shape, device) {
  for (const RowLayout::Group& group : layout.groups()) {
    storage_.push_back(
        at::empty({group.entries, shape.rows(), group.heads, shape.capacity(), group.dim},
                  at::TensorOptions(group.dtype).device(device)));
  }
  for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
    const auto view = [&](const RowLayout::Entry& entry) {
      return storage_[entry.group].select(0, entry.index_in_group);
    };
    layers_.push_back({view(layout.key(layer)), view(layout.value(layer))});
  }
}

void ContiguousCache::take_in(const AttentionCall& call) {
  const LayerKv kept = seen(call.layer, pass());
  kept.k.copy_(call.k);
  kept.v.copy_(call.v);
}

LayerKv ContiguousCache::seen(std::int64_t layer, SlotRange slots) {
  const LayerKv& kept = layers_[static_cast<std::size_t>(layer)];
  return {kept.k.narrow(2, slots.first, slots.count), kept.v.narrow(2, slots.first, slots.count)};
}

LayerKv ContiguousCache::rows_at(const LayerRows& where) const {
  const LayerKv& kept = layers_[static_cast<std::size_t>(where.layer)];
  const auto part = [&](const at::Tensor& tensor) {
    return tensor.select(0, where.row).narrow(1, where.slots.first, where.slots.count);
  };
  return {part(kept.k), part(kept.v)};
}

void ContiguousCache::read(const LayerRows& where, const LayerKv& kv) const {
  const LayerKv kept = rows_at(where);
  kv.k.copy_(kept.k);
  kv.v.copy_(kept.v);
}

void ContiguousCache::write(const LayerRows& where, const LayerKv& kv) {
  note(where.slots);
  const LayerKv kept = rows_at(where);
  kept.k.copy_(kv.k);
  kept.v.copy_(kv.v);
}

LayerKv ContiguousCache::as_kept(std::int64_t layer, const LayerKv& kv) const {
  return {kv.k.to(layout().key(layer).dtype), kv.v.to(layout().value(layer).dtype)};
}

cache::CacheUse ContiguousCache::use() const {
  std::uint64_t bytes = 0;
  for (const at::Tensor& group : storage_) bytes += group.nbytes();
  return use_of(layout(), shape(), held_end(), bytes, device());
}

void ContiguousCache::read_slot(std::int64_t slot, const at::Tensor& deltas) const {
  for (std::size_t index = 0; index < storage_.size(); ++index) {
    layout().group_view(deltas, layout().groups()[index]).copy_(storage_[index].select(3, slot));
  }
}

void ContiguousCache::write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                                 std::span<const std::int64_t> rows) {
  note({slot, 1});
  if (from.groups_match(layout())) {
    for (std::size_t index = 0; index < storage_.size(); ++index) {
      overwrite(storage_[index].select(3, slot), from.group_view(deltas, from.groups()[index]), 1,
                rows);
    }
    return;
  }
  for (std::int64_t layer = 0; layer < layout().num_layers(); ++layer) {
    const LayerKv& kept = layers_[static_cast<std::size_t>(layer)];
    overwrite(kept.k.narrow(2, slot, 1), from.entry_view(deltas, from.key(layer)), 0, rows);
    overwrite(kept.v.narrow(2, slot, 1), from.entry_view(deltas, from.value(layer)), 0, rows);
  }
}

void ContiguousCache::write_slots(std::int64_t row, std::int64_t first_slot,
                                  const at::Tensor& deltas, const RowLayout& from) {
  if (!from.groups_match(layout())) {
    KvCache::write_slots(row, first_slot, deltas, from);
    return;
  }
  note({first_slot, deltas.size(0)});
  for (std::size_t index = 0; index < storage_.size(); ++index) {
    // [entries, slots, heads, dim] -> [entries, heads, slots, dim]
    storage_[index]
        .select(1, row)
        .narrow(2, first_slot, deltas.size(0))
        .copy_(from.group_view(deltas, from.groups()[index]).transpose(1, 2));
  }
}

}  // namespace kvtool::engine
