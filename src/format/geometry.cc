#include "kvtool/format/geometry.h"

#include <optional>
#include <utility>

#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

void check_cap(std::size_t layer, const char* what, std::uint32_t value, std::uint32_t cap) {
  if (value >= 1 && value <= cap) return;
  throw_corrupt("layer " + std::to_string(layer) + ": " + what + " is " + std::to_string(value) +
                ", allowed are 1 to " + std::to_string(cap));
}

void check_layer(std::size_t index, const LayerGeometry& layer) {
  if (!is_known_dtype(static_cast<std::uint8_t>(layer.key_dtype)) ||
      !is_known_dtype(static_cast<std::uint8_t>(layer.value_dtype))) {
    throw_corrupt("layer " + std::to_string(index) + ": unknown element type");
  }
  check_cap(index, "number of KV heads", layer.num_kv_heads, kMaxHeads);
  check_cap(index, "key dimension", layer.key_dim, kMaxHeadDim);
  check_cap(index, "value dimension", layer.value_dim, kMaxHeadDim);
}

// The caps bound a layer's row to 2^31 bytes and a delta to 2^43: plain sums
// cannot overflow behind them.
static_assert(std::uint64_t{kMaxHeads} * kMaxHeadDim * sizeof(float) * 2 <= std::uint64_t{1} << 31);

std::string difference(const LayerGeometry& a, const LayerGeometry& b) {
  const auto numbers = [](std::uint32_t x, std::uint32_t y, const char* what) {
    return std::to_string(x) + " " + what + " against " + std::to_string(y);
  };
  const auto names = [](DType x, DType y, const char* what) {
    return std::string(dtype_name(x)) + " " + what + " against " + std::string(dtype_name(y));
  };
  if (a.num_kv_heads != b.num_kv_heads) return numbers(a.num_kv_heads, b.num_kv_heads, "KV heads");
  if (a.key_dim != b.key_dim) return numbers(a.key_dim, b.key_dim, "key dimensions");
  if (a.value_dim != b.value_dim) return numbers(a.value_dim, b.value_dim, "value dimensions");
  if (a.key_dtype != b.key_dtype) return names(a.key_dtype, b.key_dtype, "keys");
  return names(a.value_dtype, b.value_dtype, "values");
}

}  // namespace

std::uint64_t LayerGeometry::key_bytes() const {
  return std::uint64_t{num_kv_heads} * key_dim * element_size(key_dtype);
}

std::uint64_t LayerGeometry::value_bytes() const {
  return std::uint64_t{num_kv_heads} * value_dim * element_size(value_dtype);
}

Geometry::Geometry(std::vector<LayerGeometry> layers) : layers_(std::move(layers)) {
  if (layers_.size() > kMaxLayers) {
    throw_corrupt(std::to_string(layers_.size()) + " layers, at most " +
                  std::to_string(kMaxLayers) + " are allowed");
  }
  offsets_.reserve(layers_.size());
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const LayerGeometry& layer = layers_[i];
    check_layer(i, layer);
    RowOffset offset;
    offset.key = delta_bytes_;
    offset.value = align_up(offset.key + layer.key_bytes(), kRowAlignment);
    delta_bytes_ = align_up(offset.value + layer.value_bytes(), kRowAlignment);
    position_bytes_ += layer.key_bytes() + layer.value_bytes();
    offsets_.push_back(offset);
  }
}

std::string describe_difference(const Geometry& a, const Geometry& b) {
  if (a.num_layers() != b.num_layers()) {
    return std::to_string(a.num_layers()) + " layers against " + std::to_string(b.num_layers());
  }
  for (std::size_t i = 0; i < a.num_layers(); ++i) {
    if (a.layer(i) == b.layer(i)) continue;
    return "layer " + std::to_string(i) + ": " + difference(a.layer(i), b.layer(i));
  }
  return "";
}

}  // namespace kvtool::format
