#include "engine/cache/contiguous_cache.h"

#include <algorithm>

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
    : layout_(layout), shape_(shape), attention_(shape, device), filled_(layout.num_layers()) {
  for (const RowLayout::Group& group : layout_.groups()) {
    storage_.push_back(
        at::empty({group.entries, shape_.rows(), group.heads, shape_.capacity(), group.dim},
                  at::TensorOptions(group.dtype).device(device)));
  }
  for (std::int64_t layer = 0; layer < layout_.num_layers(); ++layer) {
    const auto view = [&](const RowLayout::Entry& entry) {
      return storage_[entry.group].select(0, entry.index_in_group);
    };
    layers_.push_back({view(layout_.key(layer)), view(layout_.value(layer))});
  }
}

void ContiguousCache::begin(SlotRange slots) {
  check_slots(shape_, slots);
  pass_ = slots;
  end_ = std::max(end_, slots.end());
  filled_.begin();
}

void ContiguousCache::end() { filled_.end(); }

at::Tensor ContiguousCache::attend(const AttentionCall& call) {
  filled_.mark(call.layer);
  const LayerKv& kept = layers_[static_cast<std::size_t>(call.layer)];
  kept.k.narrow(2, pass_.first, pass_.count).copy_(call.k);
  kept.v.narrow(2, pass_.first, pass_.count).copy_(call.v);
  return attention_.attend(call, pass_, kept.k.narrow(2, 0, pass_.end()),
                           kept.v.narrow(2, 0, pass_.end()));
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
  end_ = std::max(end_, where.slots.end());
  const LayerKv kept = rows_at(where);
  kept.k.copy_(kv.k);
  kept.v.copy_(kv.v);
}

LayerKv ContiguousCache::as_kept(std::int64_t layer, const LayerKv& kv) const {
  return {kv.k.to(layout_.key(layer).dtype), kv.v.to(layout_.value(layer).dtype)};
}

cache::CacheUse ContiguousCache::use() const {
  std::uint64_t bytes = 0;
  for (const at::Tensor& group : storage_) bytes += group.nbytes();
  return use_of(layout_, shape_, end_, bytes, storage_.front().device());
}

void ContiguousCache::read_slot(std::int64_t slot, const at::Tensor& deltas) const {
  for (std::size_t index = 0; index < storage_.size(); ++index) {
    layout_.group_view(deltas, layout_.groups()[index]).copy_(storage_[index].select(3, slot));
  }
}

void ContiguousCache::write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                                 std::span<const std::int64_t> rows) {
  end_ = std::max(end_, slot + 1);
  if (from.groups_match(layout_)) {
    for (std::size_t index = 0; index < storage_.size(); ++index) {
      overwrite(storage_[index].select(3, slot), from.group_view(deltas, from.groups()[index]), 1,
                rows);
    }
    return;
  }
  for (std::int64_t layer = 0; layer < layout_.num_layers(); ++layer) {
    const LayerKv& kept = layers_[static_cast<std::size_t>(layer)];
    overwrite(kept.k.narrow(2, slot, 1), from.entry_view(deltas, from.key(layer)), 0, rows);
    overwrite(kept.v.narrow(2, slot, 1), from.entry_view(deltas, from.value(layer)), 0, rows);
  }
}

void ContiguousCache::write_slots(std::int64_t row, std::int64_t first_slot,
                                  const at::Tensor& deltas, const RowLayout& from) {
  if (!from.groups_match(layout_)) {
    KvCache::write_slots(row, first_slot, deltas, from);
    return;
  }
  end_ = std::max(end_, first_slot + deltas.size(0));
  for (std::size_t index = 0; index < storage_.size(); ++index) {
    // [entries, slots, heads, dim] -> [entries, heads, slots, dim]
    storage_[index]
        .select(1, row)
        .narrow(2, first_slot, deltas.size(0))
        .copy_(from.group_view(deltas, from.groups()[index]).transpose(1, 2));
  }
}

}  // namespace kvtool::engine
