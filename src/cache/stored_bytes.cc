#include "stored_bytes.h"

#include <algorithm>

#include "kvtool/base/dtype.h"
#include "kvtool/cache/kivi_settings.h"

namespace kvtool::cache {
namespace {

// A scale as bfloat16 and a zero point.
constexpr std::uint64_t kGroupScaleBytes = 3;

std::uint64_t packed(std::uint64_t dim, std::uint64_t bits) { return (dim * bits + 7) / 8; }

StoredBytes grouped_bytes(const format::LayerGeometry& layer, std::uint64_t index,
                          const KiviSettings& settings) {
  const std::uint64_t heads = layer.num_kv_heads;
  StoredBytes bytes;
  bytes.group_positions = settings.group;
  if (const std::uint64_t bits = settings.key_bits_of(index); bits != 0) {
    bytes.position += heads * packed(layer.key_dim, bits);
    bytes.group = heads * layer.key_dim * kGroupScaleBytes;
  } else {
    bytes.position += heads * layer.key_dim * element_size(layer.key_dtype);
  }
  if (const std::uint64_t bits = settings.value_bits_of(index); bits != 0) {
    const std::uint64_t groups = (layer.value_dim + settings.group - 1) / settings.group;
    bytes.position += heads * (packed(layer.value_dim, bits) + groups * kGroupScaleBytes);
  } else {
    bytes.position += heads * layer.value_dim * element_size(layer.value_dtype);
  }
  return bytes;
}

}  // namespace

StoredBytes& StoredBytes::operator+=(const StoredBytes& other) {
  position += other.position;
  group += other.group;
  group_positions = other.group_positions;
  row += other.row;
  return *this;
}

StoredBytes stored_bytes(const format::Geometry& geometry, std::uint64_t index,
                         const CacheSpec& store) {
  const format::LayerGeometry& layer = geometry.layers()[index];
  if (store.policy() == "kivi") return grouped_bytes(layer, index, kivi_settings(store));
  const RowStorage& storage = storage_of(store);
  const std::uint64_t heads = layer.num_kv_heads;
  const auto row = [&](std::uint64_t dim, DType dtype) {
    return storage.element_bits == 0 ? dim * element_size(dtype)
                                     : packed(dim, storage.element_bits) + storage.scale_bytes;
  };
  StoredBytes bytes;
  bytes.position =
      heads * (row(layer.key_dim, layer.key_dtype) + row(layer.value_dim, layer.value_dtype));
  bytes.row = heads * 2 * storage.head_bytes;
  return bytes;
}

StoredBytes stored_bytes(const format::Geometry& geometry, const CacheSpec& store) {
  // The caps of a geometry keep these sums far below 64 bits.
  StoredBytes bytes;
  for (std::uint64_t layer = 0; layer < geometry.layers().size(); ++layer) {
    bytes += stored_bytes(geometry, layer, store);
  }
  return bytes;
}

WorkBytes work_bytes(const format::Geometry& geometry) {
  WorkBytes bytes;
  const auto fit = [&](std::uint64_t numbers, DType dtype, std::uint64_t& own) {
    own = std::max(own, numbers * element_size(dtype));
    if (dtype != DType::kFloat32) bytes.wide = std::max(bytes.wide, numbers * sizeof(float));
  };
  for (const format::LayerGeometry& layer : geometry.layers()) {
    const std::uint64_t heads = layer.num_kv_heads;
    fit(heads * layer.key_dim, layer.key_dtype, bytes.key);
    fit(heads * layer.value_dim, layer.value_dtype, bytes.value);
  }
  return bytes;
}

}  // namespace kvtool::cache
