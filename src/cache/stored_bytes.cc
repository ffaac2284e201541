#include "stored_bytes.h"

#include "kvtool/base/dtype.h"
#include "kvtool/cache/kivi_settings.h"

namespace kvtool::cache {
namespace {

// A scale as bfloat16 and a zero point.
constexpr std::uint64_t kGroupScaleBytes = 3;

std::uint64_t packed(std::uint64_t dim, std::uint64_t bits) { return (dim * bits + 7) / 8; }

StoredBytes grouped_bytes(const format::LayerGeometry& layer, const KiviSettings& settings) {
  const std::uint64_t heads = layer.num_kv_heads;
  const std::uint64_t value_groups = (layer.value_dim + settings.group - 1) / settings.group;
  StoredBytes bytes;
  bytes.position =
      heads * (packed(layer.key_dim, settings.key_bits) +
               packed(layer.value_dim, settings.value_bits) + value_groups * kGroupScaleBytes);
  bytes.group = heads * layer.key_dim * kGroupScaleBytes;
  bytes.group_positions = settings.group;
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

StoredBytes stored_bytes(const format::LayerGeometry& layer, const CacheSpec& store) {
  if (store.policy() == "kivi") return grouped_bytes(layer, kivi_settings(store));
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
  for (const format::LayerGeometry& layer : geometry.layers()) bytes += stored_bytes(layer, store);
  return bytes;
}

}  // namespace kvtool::cache
