// K and V of the fake engine: each row follows from its token alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kvtool/format/geometry.h"

namespace kvtool::fake_kv {

using Bytes = std::vector<std::byte>;
using Tokens = std::vector<std::int32_t>;

inline format::Geometry geometry() {
  const format::LayerGeometry layer{DType::kFloat32, DType::kFloat32, 2, 3, 2};
  return format::Geometry({layer, layer});
}

inline std::uint32_t mixed(std::uint32_t value) {
  value ^= value >> 16U;
  value *= 0x7feb352dU;
  value ^= value >> 15U;
  value *= 0x846ca68bU;
  return value ^ (value >> 16U);
}

// `count` floats of one K or V block at one position.
inline void append_row(Bytes& target, std::int32_t token, std::uint32_t salt, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto value = static_cast<float>(mixed(static_cast<std::uint32_t>(token) * 131U + salt +
                                                static_cast<std::uint32_t>(i)) %
                                          1000U) /
                       100.0F;
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    target.insert(target.end(), bytes, bytes + sizeof value);
  }
}

inline std::uint32_t salt_of(std::uint32_t layer, bool value, std::uint32_t head) {
  return layer * 1009U + (value ? 503U : 0U) + head * 97U;
}

// [heads, positions, dim].
inline Bytes block(std::uint32_t layer, bool value, const Tokens& tokens) {
  const format::LayerGeometry shape = geometry().layer(layer);
  Bytes bytes;
  for (std::uint32_t head = 0; head < shape.num_kv_heads; ++head) {
    for (const std::int32_t token : tokens) {
      append_row(bytes, token, salt_of(layer, value, head),
                 value ? shape.value_dim : shape.key_dim);
    }
  }
  return bytes;
}

inline Bytes delta(std::int32_t token) {
  const format::Geometry shape = geometry();
  Bytes bytes(shape.delta_bytes());
  for (std::uint32_t layer = 0; layer < shape.num_layers(); ++layer) {
    const Bytes key = block(layer, false, {token});
    const Bytes value = block(layer, true, {token});
    std::memcpy(bytes.data() + shape.row_offset(layer).key, key.data(), key.size());
    std::memcpy(bytes.data() + shape.row_offset(layer).value, value.data(), value.size());
  }
  return bytes;
}

}  // namespace kvtool::fake_kv
