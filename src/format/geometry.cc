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

bool is_wide_float(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

void check_code(std::size_t layer, const RowCode& code, DType decoded, std::uint32_t dim) {
  const std::string subject = "layer " + std::to_string(layer) + ": ";
  if (code.type < CodeType::kFloat8E4M3 || code.type > CodeType::kUInt4) {
    throw_corrupt(subject + "unknown type of codes");
  }
  if (!is_wide_float(code.scale_dtype) || !is_wide_float(decoded)) {
    throw_corrupt(subject + "scales and decoded values are float32, float16 or bfloat16");
  }
  check_cap(layer, "group of channels", code.group_channels, dim);
}

void check_layer(std::size_t index, const LayerGeometry& layer) {
  if (!is_known_dtype(static_cast<std::uint8_t>(layer.key_dtype)) ||
      !is_known_dtype(static_cast<std::uint8_t>(layer.value_dtype))) {
    throw_corrupt("layer " + std::to_string(index) + ": unknown element type");
  }
  check_cap(index, "number of KV heads", layer.num_kv_heads, kMaxHeads);
  check_cap(index, "key dimension", layer.key_dim, kMaxHeadDim);
  check_cap(index, "value dimension", layer.value_dim, kMaxHeadDim);
  if (layer.key_code) check_code(index, *layer.key_code, layer.key_dtype, layer.key_dim);
  if (layer.value_code) check_code(index, *layer.value_code, layer.value_dtype, layer.value_dim);
}

// The caps bound a layer's row to 2^33 bytes and a delta to 2^45: plain sums cannot overflow
// behind them. Most bytes for a channel: a code, a scale and an offset of its own.
constexpr std::uint64_t kMaxChannelBytes = 1 + 2 * sizeof(float);
static_assert(std::uint64_t{kMaxHeads} * kMaxHeadDim * kMaxChannelBytes * 2 <= std::uint64_t{1}
                                                                                   << 33);

// Says all that distinguishes one code from another.
std::string describe_code(const std::optional<RowCode>& code) {
  if (!code) return "plain";
  return std::string(code_type_name(code->type)) + " (" +
         std::string(dtype_name(code->scale_dtype)) +
         (code->has_offsets ? " scales and offsets" : " scales") + " for " +
         std::to_string(code->group_channels) + " channels, " +
         std::to_string(code->group_positions) + " positions)";
}

std::string difference(const LayerGeometry& a, const LayerGeometry& b) {
  const auto numbers = [](std::uint32_t x, std::uint32_t y, const char* what) {
    return std::to_string(x) + " " + what + " against " + std::to_string(y);
  };
  const auto names = [](DType x, DType y, const char* what) {
    return std::string(dtype_name(x)) + " " + what + " against " + std::string(dtype_name(y));
  };
  const auto codes = [](const auto& x, const auto& y, const char* what) {
    return describe_code(x) + " " + what + " against " + describe_code(y);
  };
  if (a.num_kv_heads != b.num_kv_heads) return numbers(a.num_kv_heads, b.num_kv_heads, "KV heads");
  if (a.key_dim != b.key_dim) return numbers(a.key_dim, b.key_dim, "key dimensions");
  if (a.value_dim != b.value_dim) return numbers(a.value_dim, b.value_dim, "value dimensions");
  if (a.key_code != b.key_code) return codes(a.key_code, b.key_code, "keys");
  if (a.value_code != b.value_code) return codes(a.value_code, b.value_code, "values");
  if (a.key_dtype != b.key_dtype) return names(a.key_dtype, b.key_dtype, "keys");
  return names(a.value_dtype, b.value_dtype, "values");
}

}  // namespace

std::string_view code_type_name(CodeType type) {
  switch (type) {
    case CodeType::kFloat8E4M3: return "float8_e4m3fn";
    case CodeType::kFloat8E5M2: return "float8_e5m2";
    case CodeType::kInt8: return "int8";
    case CodeType::kUInt8: return "uint8";
    case CodeType::kInt4: return "int4";
    case CodeType::kUInt4: return "uint4";
  }
  return "unknown";
}

std::uint64_t code_bytes(CodeType type, std::uint32_t dim) {
  const bool packed = type == CodeType::kInt4 || type == CodeType::kUInt4;
  return packed ? (std::uint64_t{dim} + 1) / 2 : dim;
}

std::uint64_t coded_row_bytes(const RowCode& code, std::uint32_t dim) {
  const std::uint64_t groups = (std::uint64_t{dim} + code.group_channels - 1) / code.group_channels;
  const std::uint64_t size = element_size(code.scale_dtype);
  return align_up(code_bytes(code.type, dim), size) + groups * size * (code.has_offsets ? 2 : 1);
}

std::uint64_t LayerGeometry::key_bytes() const {
  const std::uint64_t row = key_code ? coded_row_bytes(*key_code, key_dim)
                                     : std::uint64_t{key_dim} * element_size(key_dtype);
  return num_kv_heads * row;
}

std::uint64_t LayerGeometry::value_bytes() const {
  const std::uint64_t row = value_code ? coded_row_bytes(*value_code, value_dim)
                                       : std::uint64_t{value_dim} * element_size(value_dtype);
  return num_kv_heads * row;
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

void require_plain(const Geometry& geometry, std::string_view subject, std::string_view who) {
  for (std::size_t i = 0; i < geometry.num_layers(); ++i) {
    const LayerGeometry& layer = geometry.layer(i);
    if (layer.is_plain()) continue;
    const bool key = layer.key_code.has_value();
    const RowCode& code = key ? *layer.key_code : *layer.value_code;
    throw_incompatible(std::string(subject) + ": layer " + std::to_string(i) + " holds " +
                       (key ? "K" : "V") + " as " + std::string(code_type_name(code.type)) +
                       " codes with scales, which " + std::string(who) + " cannot read");
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
