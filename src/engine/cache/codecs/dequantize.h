// From packed integers to K/V rows on a CPU: one pass where tensor operations take five.
#pragma once

#include <c10/core/ScalarType.h>

#include <array>
#include <cstdint>

namespace kvtool::engine {

enum class RowType : std::uint8_t { kFloat32, kFloat16, kBFloat16 };

// Of a type with 16 or 32 bits.
[[nodiscard]] inline RowType row_type(at::ScalarType dtype) {
  if (dtype == at::kFloat) return RowType::kFloat32;
  return dtype == at::kHalf ? RowType::kFloat16 : RowType::kBFloat16;
}

// One row of `dim` numbers: out[c] = (q[c] + zeros[c]) * scales[c], rounded to `type`, ties to
// even. q[c] are the `bits` (2, 4 or 8) from bit c / width * bits on of codes[c % width], where
// width = ceil(dim * bits / 8). wide: room for `dim` numbers.
void dequantize(const std::uint8_t* codes, std::int64_t bits, const float* zeros,
                const float* scales, std::int64_t dim, RowType type, float* wide, void* out);

// out[c] = codes[c] * scale, rounded likewise.
void dequantize(const std::int8_t* codes, float scale, std::int64_t dim, RowType type, float* wide,
                void* out);

// Of each code of an 8-bit type, the number that it stands for.
using CodeTable = std::array<float, 256>;
// out[c] = table[codes[c]] * scale, rounded likewise.
void dequantize(const std::uint8_t* codes, const CodeTable& table, float scale, std::int64_t dim,
                RowType type, float* wide, void* out);

}  // namespace kvtool::engine
