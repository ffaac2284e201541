// Element types of K, V and logits, their conversion to float32 and their ulp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace kvtool {

// The numeric values are part of the .kvc format (docs/format.md).
enum class DType : std::uint8_t {
  kFloat32 = 1,
  kFloat16 = 2,
  kBFloat16 = 3,
  kFloat8E4M3 = 4,  // e4m3fn: no infinities, one NaN pattern, max 448
  kFloat8E5M2 = 5,
};

// Bytes per element: 4, 2 or 1.
[[nodiscard]] std::size_t element_size(DType dtype);

// Explicitly stored significand bits p: 23, 10, 7, 3, 2.
[[nodiscard]] int mantissa_bits(DType dtype);

// "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2": torch's names.
[[nodiscard]] std::string_view dtype_name(DType dtype);
[[nodiscard]] std::optional<DType> parse_dtype(std::string_view name);
[[nodiscard]] bool is_known_dtype(std::uint8_t value);

// The name used by the safetensors format: "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2".
[[nodiscard]] std::string_view safetensors_name(DType dtype);

// Decodes little-endian elements; source.size() == element_size(dtype) * target.size().
// Exact: every value of every dtype here is representable in float32.
void decode_to_float(DType dtype, std::span<const std::byte> source, std::span<float> target);

// Encodes with round-to-nearest-even; fp8 saturates to the largest finite value.
void encode_from_float(DType dtype, std::span<const float> source, std::span<std::byte> target);

// ulp(x) = 2^(floor(log2|x|) - p): the spacing of `dtype` around x; at x = 0 the
// smallest subnormal. NaN for non-finite x.
[[nodiscard]] double ulp(DType dtype, double x);

}  // namespace kvtool
