#include "engine/cache/row_buffer.h"

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

RowBuffer::RowBuffer(const RowLayout& layout, std::int64_t rows, std::int64_t slots,
                     at::Device device, Fill fill, bool pinned)
    : layout_(&layout) {
  for (const RowLayout::Group& group : layout.groups()) {
    storage_.push_back(
        at::empty({group.entries, rows, group.heads, slots, group.dim},
                  at::TensorOptions(group.dtype).device(device).pinned_memory(pinned)));
  }
  if (fill == Fill::kZeros) zero();
  for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
    const auto view = [&](const RowLayout::Entry& entry) {
      return storage_[entry.group].select(0, entry.index_in_group);
    };
    layers_.push_back({view(layout.key(layer)), view(layout.value(layer))});
  }
}

std::uint64_t RowBuffer::nbytes() const {
  std::uint64_t bytes = 0;
  for (const at::Tensor& group : storage_) bytes += group.nbytes();
  return bytes;
}

void RowBuffer::zero() const {
  for (const at::Tensor& group : storage_) group.zero_();
}

void RowBuffer::read_slot(std::int64_t slot, const at::Tensor& deltas) const {
  for (std::size_t index = 0; index < storage_.size(); ++index) {
    layout_->group_view(deltas, layout_->groups()[index]).copy_(storage_[index].select(3, slot));
  }
}

void RowBuffer::write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                           std::span<const std::int64_t> rows) {
  if (from.groups_match(*layout_)) {
    for (std::size_t index = 0; index < storage_.size(); ++index) {
      overwrite(storage_[index].select(3, slot), from.group_view(deltas, from.groups()[index]), 1,
                rows);
    }
    return;
  }
  for (std::int64_t layer = 0; layer < layout_->num_layers(); ++layer) {
    const LayerKv& kept = layers_[static_cast<std::size_t>(layer)];
    overwrite(kept.k.narrow(2, slot, 1), from.entry_view(deltas, from.key(layer)), 0, rows);
    overwrite(kept.v.narrow(2, slot, 1), from.entry_view(deltas, from.value(layer)), 0, rows);
  }
}

void RowBuffer::write_slots(std::int64_t row, std::int64_t first_slot, const at::Tensor& deltas,
                            const RowLayout& from) {
  for (std::size_t index = 0; index < storage_.size(); ++index) {
    // [entries, slots, heads, dim] -> [entries, heads, slots, dim]
    storage_[index]
        .select(1, row)
        .narrow(2, first_slot, deltas.size(0))
        .copy_(from.group_view(deltas, from.groups()[index]).transpose(1, 2));
  }
}

void copy_rows(const LayerKv& from, const LayerKv& to) {
  to.k.copy_(from.k);
  to.v.copy_(from.v);
}

LayerKv row_slots(const LayerKv& rows, std::int64_t row, SlotRange slots) {
  const auto part = [&](const at::Tensor& tensor) {
    return tensor.select(0, row).narrow(1, slots.first, slots.count);
  };
  return {part(rows.k), part(rows.v)};
}

}  // namespace kvtool::engine
