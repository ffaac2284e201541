#include "engine/cache/work_space.h"

#include <algorithm>

namespace kvtool::engine {
namespace {

std::int64_t bytes_of_position(const RowLayout::Entry& entry) {
  return entry.heads * entry.dim * static_cast<std::int64_t>(at::elementSize(entry.dtype));
}

}  // namespace

WorkSpace::WorkSpace(const RowLayout& layout, std::int64_t rows, std::int64_t slots,
                     at::Device device)
    : layout_(layout), rows_(rows), slots_(slots) {
  std::int64_t key = 0;
  std::int64_t value = 0;
  for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
    key = std::max(key, bytes_of_position(layout.key(layer)));
    value = std::max(value, bytes_of_position(layout.value(layer)));
  }
  const auto options = at::TensorOptions(at::kByte).device(device);
  key_ = at::zeros({rows * slots * key}, options);
  value_ = at::zeros({rows * slots * value}, options);
}

at::Tensor WorkSpace::view(const at::Tensor& space, const RowLayout::Entry& entry) const {
  return space.narrow(0, 0, rows_ * slots_ * bytes_of_position(entry))
      .view(entry.dtype)
      .view({rows_, entry.heads, slots_, entry.dim});
}

LayerKv WorkSpace::of_layer(std::int64_t layer) const {
  return {view(key_, layout_.key(layer)), view(value_, layout_.value(layer))};
}

}  // namespace kvtool::engine
