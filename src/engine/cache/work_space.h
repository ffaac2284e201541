// Room for the rows of one layer at a time, which all layers of a cache share.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "engine/row_layout.h"

namespace kvtool::engine {

class WorkSpace {
 public:
  // For `rows` batch rows of `slots` slots of the largest layer; filled with zeros.
  WorkSpace(const RowLayout& layout, std::int64_t rows, std::int64_t slots, at::Device device);

  // [B, heads, slots, dim] of a layer, as the last user left them.
  [[nodiscard]] LayerKv of_layer(std::int64_t layer) const;
  [[nodiscard]] std::uint64_t nbytes() const { return key_.nbytes() + value_.nbytes(); }

 private:
  [[nodiscard]] at::Tensor view(const at::Tensor& space, const RowLayout::Entry& entry) const;

  const RowLayout& layout_;
  std::int64_t rows_;
  std::int64_t slots_;
  at::Tensor key_;    // u8
  at::Tensor value_;  // likewise
};

}  // namespace kvtool::engine
