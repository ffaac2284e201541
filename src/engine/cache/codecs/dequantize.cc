#include "engine/cache/codecs/dequantize.h"

#include <c10/util/Half.h>

#include <algorithm>
#include <bit>

#include "kvtool/base/vectorized.h"

namespace kvtool::engine {
namespace {

constexpr std::uint32_t kQuietNan = 0x7fc0;

KVTOOL_VECTORIZED void widen(const std::uint8_t* codes, std::uint32_t bits, const float* zeros,
                             const float* scales, std::int64_t dim, float* out) {
  const std::uint32_t mask = (1U << bits) - 1U;
  const std::int64_t width = (dim * bits + 7) / 8;
  std::uint32_t shift = 0;
  for (std::int64_t first = 0; first < dim; first += width) {
    const std::int64_t count = std::min(width, dim - first);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto q = static_cast<std::int32_t>((std::uint32_t{codes[i]} >> shift) & mask);
      out[first + i] = (static_cast<float>(q) + zeros[first + i]) * scales[first + i];
    }
    shift += bits;
  }
}

KVTOOL_VECTORIZED void widen_signed(const std::int8_t* codes, float scale, std::int64_t count,
                                    float* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = static_cast<float>(std::int32_t{codes[i]}) * scale;
  }
}

KVTOOL_VECTORIZED void widen_table(const std::uint8_t* codes, const float* table, float scale,
                                   std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = table[codes[i]] * scale;
}

KVTOOL_VECTORIZED void to_bfloat16(const float* values, std::int64_t count, std::uint16_t* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(values[i]);
    const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
    const std::uint32_t kept = select(values[i] != values[i], kQuietNan, rounded);
    out[i] = static_cast<std::uint16_t>(kept);
  }
}

void to_float16(const float* values, std::int64_t count, std::uint16_t* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = c10::Half(values[i]).x;
}

void narrow_to(RowType type, const float* values, std::int64_t count, void* out) {
  if (type == RowType::kFloat16) {
    to_float16(values, count, static_cast<std::uint16_t*>(out));
  } else {
    to_bfloat16(values, count, static_cast<std::uint16_t*>(out));
  }
}

}  // namespace

void dequantize(const std::uint8_t* codes, std::int64_t bits, const float* zeros,
                const float* scales, std::int64_t dim, RowType type, float* wide, void* out) {
  float* target = type == RowType::kFloat32 ? static_cast<float*>(out) : wide;
  widen(codes, static_cast<std::uint32_t>(bits), zeros, scales, dim, target);
  if (type != RowType::kFloat32) narrow_to(type, target, dim, out);
}

void dequantize(const std::int8_t* codes, float scale, std::int64_t dim, RowType type, float* wide,
                void* out) {
  float* target = type == RowType::kFloat32 ? static_cast<float*>(out) : wide;
  widen_signed(codes, scale, dim, target);
  if (type != RowType::kFloat32) narrow_to(type, target, dim, out);
}

void dequantize(const std::uint8_t* codes, const CodeTable& table, float scale, std::int64_t dim,
                RowType type, float* wide, void* out) {
  float* target = type == RowType::kFloat32 ? static_cast<float*>(out) : wide;
  widen_table(codes, table.data(), scale, dim, target);
  if (type != RowType::kFloat32) narrow_to(type, target, dim, out);
}

}  // namespace kvtool::engine
