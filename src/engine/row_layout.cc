#include "engine/row_layout.h"

#include <algorithm>
#include <string>

#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {

at::ScalarType to_scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return at::kFloat;
    case DType::kFloat16: return at::kHalf;
    case DType::kBFloat16: return at::kBFloat16;
    case DType::kFloat8E4M3: return at::kFloat8_e4m3fn;
    case DType::kFloat8E5M2: return at::kFloat8_e5m2;
  }
  throw_misuse("unknown dtype");
}

LayerKv positions_of(const LayerKv& kv, std::int64_t first, std::int64_t count) {
  return {kv.k.narrow(1, first, count), kv.v.narrow(1, first, count)};
}

RowLayout::RowLayout(const format::Geometry& geometry) : geometry_(geometry) {
  for (std::size_t layer = 0; layer < geometry_.num_layers(); ++layer) {
    const format::LayerGeometry& shape = geometry_.layer(layer);
    const format::RowOffset& offset = geometry_.row_offset(layer);
    add_entry(shape.key_dtype, shape.num_kv_heads, shape.key_dim, offset.key);
    add_entry(shape.value_dtype, shape.num_kv_heads, shape.value_dim, offset.value);
  }
  row_stride_bytes_ = static_cast<std::int64_t>(align_up(geometry_.delta_bytes(), 64));
}

void RowLayout::add_entry(DType dtype, std::int64_t heads, std::int64_t dim, std::uint64_t offset) {
  const at::ScalarType type = to_scalar_type(dtype);
  const auto start = static_cast<std::int64_t>(offset);
  for (std::size_t index = groups_.size(); index-- > 0;) {
    Group& group = groups_[index];
    if (group.dtype != type || group.heads != heads || group.dim != dim) continue;
    if (group.entries == 1) group.stride_bytes = start - group.offset_bytes;
    if (group.offset_bytes + group.entries * group.stride_bytes != start) break;
    entries_.push_back({type, heads, dim, start, index, group.entries});
    ++group.entries;
    return;
  }
  groups_.push_back({type, heads, dim, start, 0, 1});
  entries_.push_back({type, heads, dim, start, groups_.size() - 1, 0});
}

bool RowLayout::groups_match(const RowLayout& other) const {
  return std::equal(entries_.begin(), entries_.end(), other.entries_.begin(), other.entries_.end(),
                    [](const Entry& a, const Entry& b) {
                      return a.heads == b.heads && a.dim == b.dim && a.group == b.group &&
                             a.index_in_group == b.index_in_group;
                    });
}

at::Tensor RowLayout::entry_view(const at::Tensor& deltas, const Entry& entry) const {
  const auto size = static_cast<std::int64_t>(at::elementSize(entry.dtype));
  const at::Tensor elements = deltas.view(entry.dtype);
  return elements.as_strided({deltas.size(0), entry.heads, 1, entry.dim},
                             {row_stride_bytes_ / size, entry.dim, entry.dim, 1},
                             elements.storage_offset() + entry.offset_bytes / size);
}

LayerKv RowLayout::empty_rows(std::int64_t layer, std::int64_t positions, at::Device device) const {
  const auto rows = [&](const Entry& entry) {
    return at::empty({entry.heads, positions, entry.dim},
                     at::TensorOptions(entry.dtype).device(device));
  };
  return {rows(key(layer)), rows(value(layer))};
}

LayerKv RowLayout::layer_rows(const at::Tensor& deltas, std::int64_t layer) const {
  const auto rows = [&](const Entry& entry) {
    return entry_view(deltas, entry).squeeze(2).transpose(0, 1);
  };
  return {rows(key(layer)), rows(value(layer))};
}

at::Tensor RowLayout::group_view(const at::Tensor& deltas, const Group& group) const {
  const auto size = static_cast<std::int64_t>(at::elementSize(group.dtype));
  const at::Tensor elements = deltas.view(group.dtype);
  return elements.as_strided({group.entries, deltas.size(0), group.heads, group.dim},
                             {group.stride_bytes / size, row_stride_bytes_ / size, group.dim, 1},
                             elements.storage_offset() + group.offset_bytes / size);
}

}  // namespace kvtool::engine
