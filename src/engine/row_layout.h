// How a delta (the K and V rows of one position, all layers) maps to tensors.
// Layers of equal shape form groups, so that gathering or scattering a whole
// step is one strided copy per group instead of two per layer.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "kvtool/format/geometry.h"

namespace kvtool::engine {

[[nodiscard]] at::ScalarType to_scalar_type(DType dtype);

// K and V of one layer: [.., num_kv_heads, positions, dim] each.
struct LayerKv {
  at::Tensor k;
  at::Tensor v;
};

// Positions [first, first + count) of [heads, positions, dim].
[[nodiscard]] LayerKv positions_of(const LayerKv& kv, std::int64_t first, std::int64_t count);

class RowLayout {
 public:
  // Entry 2 * layer is the layer's K, 2 * layer + 1 its V.
  struct Entry {
    at::ScalarType dtype;
    std::int64_t heads;
    std::int64_t dim;
    std::int64_t offset_bytes;  // in the delta
    std::size_t group;
    std::int64_t index_in_group;
  };
  // Entries of one dtype and shape that follow one another at a fixed stride.
  struct Group {
    at::ScalarType dtype;
    std::int64_t heads;
    std::int64_t dim;
    std::int64_t offset_bytes;  // of the first entry
    std::int64_t stride_bytes;  // 0 with one entry
    std::int64_t entries;
  };

  explicit RowLayout(const format::Geometry& geometry);

  [[nodiscard]] const format::Geometry& geometry() const { return geometry_; }
  [[nodiscard]] std::int64_t num_layers() const {
    return static_cast<std::int64_t>(geometry_.num_layers());
  }
  [[nodiscard]] const Entry& key(std::int64_t layer) const {
    return entries_[static_cast<std::size_t>(2 * layer)];
  }
  [[nodiscard]] const Entry& value(std::int64_t layer) const {
    return entries_[static_cast<std::size_t>(2 * layer + 1)];
  }
  [[nodiscard]] const std::vector<Group>& groups() const { return groups_; }
  // Both name the same entries by the same group and index, so that groups can be
  // copied whole from one to the other. dtypes may differ.
  [[nodiscard]] bool groups_match(const RowLayout& other) const;
  // Bytes from one row of a step to the next: the delta, padded to 64.
  [[nodiscard]] std::int64_t row_stride_bytes() const { return row_stride_bytes_; }

  // Of one layer and row: [heads, positions, dim], not filled.
  [[nodiscard]] LayerKv empty_rows(std::int64_t layer, std::int64_t positions,
                                   at::Device device) const;

  // Views into deltas, u8 [B, row_stride_bytes()] contiguous.
  // One entry: [B, heads, 1, dim].
  [[nodiscard]] at::Tensor entry_view(const at::Tensor& deltas, const Entry& entry) const;
  // One layer of one row, where deltas are those of its positions: [heads, positions, dim].
  [[nodiscard]] LayerKv layer_rows(const at::Tensor& deltas, std::int64_t layer) const;
  // One group: [entries, B, heads, dim].
  [[nodiscard]] at::Tensor group_view(const at::Tensor& deltas, const Group& group) const;

 private:
  void add_entry(DType dtype, std::int64_t heads, std::int64_t dim, std::uint64_t offset);

  format::Geometry geometry_;
  std::vector<Entry> entries_;
  std::vector<Group> groups_;
  std::int64_t row_stride_bytes_;
};

}  // namespace kvtool::engine
