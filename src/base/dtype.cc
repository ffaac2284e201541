#include "kvtool/base/dtype.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace kvtool {
namespace {

// Copying whole elements between bytes and integers is only right when memory
// order and file order agree.
static_assert(std::endian::native == std::endian::little, "kvtool needs a little-endian machine");

struct DTypeTraits {
  DType dtype;
  std::string_view name;
  std::string_view safetensors;
  std::size_t size;
  int mantissa_bits;
  int min_normal_exponent;
};

constexpr std::array<DTypeTraits, 5> kTraits = {{
    {DType::kFloat32, "float32", "F32", 4, 23, -126},
    {DType::kFloat16, "float16", "F16", 2, 10, -14},
    {DType::kBFloat16, "bfloat16", "BF16", 2, 7, -126},
    {DType::kFloat8E4M3, "float8_e4m3fn", "F8_E4M3", 1, 3, -6},
    {DType::kFloat8E5M2, "float8_e5m2", "F8_E5M2", 1, 2, -14},
}};

const DTypeTraits& traits(DType dtype) { return kTraits.at(static_cast<std::size_t>(dtype) - 1); }

float bfloat16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

// Works in normal float32 numbers only, so that a thread which flushes
// subnormals to zero gets the same result.
float float16_to_float(std::uint16_t bits) {
  constexpr std::uint32_t kExponentMask = 0x0f800000;  // float16's exponent, moved to float32
  constexpr std::uint32_t kSubnormalBias = 113u << 23;
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7fffu) << 13;
  const std::uint32_t exponent = magnitude & kExponentMask;
  magnitude += (127u - 15u) << 23;
  if (exponent == kExponentMask) {
    magnitude += (128u - 16u) << 23;
  } else if (exponent == 0) {
    const float value =
        std::bit_cast<float>(magnitude + (1u << 23)) - std::bit_cast<float>(kSubnormalBias);
    magnitude = std::bit_cast<std::uint32_t>(value);
  }
  return std::bit_cast<float>(magnitude | sign);
}

float float8_to_float(DType dtype, std::uint8_t bits) {
  // e5m2 is float16 with the low eight bits cut off.
  if (dtype == DType::kFloat8E5M2) return float16_to_float(static_cast<std::uint16_t>(bits << 8));
  if ((bits & 0x7f) == 0x7f) {
    return std::bit_cast<float>(0x7fc00000u | (static_cast<std::uint32_t>(bits & 0x80u) << 24));
  }
  const int exponent = (bits >> 3) & 0xf;
  const int mantissa = bits & 0x7;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

const std::array<float, 256>& float8_table(DType dtype) {
  const auto make = [](DType type) {
    std::array<float, 256> table{};
    for (std::size_t i = 0; i < table.size(); ++i) {
      table[i] = float8_to_float(type, static_cast<std::uint8_t>(i));
    }
    return table;
  };
  static const std::array<float, 256> e4m3 = make(DType::kFloat8E4M3);
  static const std::array<float, 256> e5m2 = make(DType::kFloat8E5M2);
  return dtype == DType::kFloat8E4M3 ? e4m3 : e5m2;
}

std::uint16_t float_to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    // Rounding a NaN could carry into the exponent and yield infinity.
    return static_cast<std::uint16_t>((bits >> 16) | 0x0040u);
  }
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// value >> shift, rounded to nearest, ties to even; shift in [1, 31].
std::uint32_t shift_right_to_even(std::uint32_t value, int shift) {
  const std::uint32_t kept = value >> shift;
  const std::uint32_t rest = value & ((1u << shift) - 1u);
  const std::uint32_t half = 1u << (shift - 1);
  return kept + ((rest > half || (rest == half && (kept & 1u) != 0)) ? 1u : 0u);
}

// Rounds |value| (finite) to a format of `mantissa` stored bits whose smallest
// normal exponent is `min_exponent`, and returns exponent and mantissa fields
// side by side. A result beyond the format's range is larger than any code.
std::uint32_t round_magnitude(std::uint32_t float_bits, int mantissa, int min_exponent) {
  const int raw_exponent = static_cast<int>(float_bits >> 23);
  if (raw_exponent == 0) return 0;  // float32 subnormals vanish in every smaller format here
  const std::uint32_t significand = (float_bits & 0x7fffffu) | 0x800000u;
  const int exponent = raw_exponent - 127;
  int shift = 23 - mantissa;
  std::uint32_t biased = 0;
  if (exponent >= min_exponent) {
    // The hidden bit adds the missing 1 to the exponent field.
    biased = static_cast<std::uint32_t>(exponent - min_exponent) << mantissa;
  } else {
    shift += min_exponent - exponent;
    if (shift > 25) return 0;
  }
  return biased + shift_right_to_even(significand, shift);
}

std::uint16_t float_to_float16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t result = 0x7e00u;
  if (magnitude <= 0x7f800000u) {
    result = magnitude == 0x7f800000u
                 ? 0x7c00u
                 : std::min(round_magnitude(magnitude, 10, -14), std::uint32_t{0x7c00u});
  }
  return static_cast<std::uint16_t>(sign | result);
}

std::uint8_t float_to_float8(DType dtype, float value) {
  const bool e4m3 = dtype == DType::kFloat8E4M3;
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 24) & 0x80u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const std::uint32_t largest_finite = e4m3 ? 0x7eu : 0x7bu;
  std::uint32_t result = 0x7fu;  // NaN in both
  if (magnitude < 0x7f800000u) {
    result = std::min(round_magnitude(magnitude, e4m3 ? 3 : 2, e4m3 ? -6 : -14), largest_finite);
  } else if (magnitude == 0x7f800000u) {
    result = largest_finite;
  }
  return static_cast<std::uint8_t>(sign | result);
}

template <typename Bits, typename Convert>
void decode_each(std::span<const std::byte> source, std::span<float> target, Convert convert) {
  for (std::size_t i = 0; i < target.size(); ++i) {
    Bits bits;
    std::memcpy(&bits, source.data() + i * sizeof(Bits), sizeof(Bits));
    target[i] = convert(bits);
  }
}

template <typename Bits, typename Convert>
void encode_each(std::span<const float> source, std::span<std::byte> target, Convert convert) {
  for (std::size_t i = 0; i < source.size(); ++i) {
    const Bits bits = convert(source[i]);
    std::memcpy(target.data() + i * sizeof(Bits), &bits, sizeof(Bits));
  }
}

}  // namespace

std::size_t element_size(DType dtype) { return traits(dtype).size; }

int mantissa_bits(DType dtype) { return traits(dtype).mantissa_bits; }

std::string_view dtype_name(DType dtype) { return traits(dtype).name; }

std::optional<DType> parse_dtype(std::string_view name) {
  for (const DTypeTraits& entry : kTraits) {
    if (entry.name == name) return entry.dtype;
  }
  return std::nullopt;
}

bool is_known_dtype(std::uint8_t value) { return value >= 1 && value <= kTraits.size(); }

std::string_view safetensors_name(DType dtype) { return traits(dtype).safetensors; }

void decode_to_float(DType dtype, std::span<const std::byte> source, std::span<float> target) {
  switch (dtype) {
    case DType::kFloat32:
      if (!target.empty()) std::memcpy(target.data(), source.data(), target.size_bytes());
      return;
    case DType::kFloat16: return decode_each<std::uint16_t>(source, target, float16_to_float);
    case DType::kBFloat16: return decode_each<std::uint16_t>(source, target, bfloat16_to_float);
    case DType::kFloat8E4M3:
    case DType::kFloat8E5M2: {
      const std::array<float, 256>& table = float8_table(dtype);
      return decode_each<std::uint8_t>(source, target,
                                       [&table](std::uint8_t bits) { return table[bits]; });
    }
  }
}

void encode_from_float(DType dtype, std::span<const float> source, std::span<std::byte> target) {
  switch (dtype) {
    case DType::kFloat32:
      if (!source.empty()) std::memcpy(target.data(), source.data(), source.size_bytes());
      return;
    case DType::kFloat16: return encode_each<std::uint16_t>(source, target, float_to_float16);
    case DType::kBFloat16: return encode_each<std::uint16_t>(source, target, float_to_bfloat16);
    case DType::kFloat8E4M3:
    case DType::kFloat8E5M2:
      return encode_each<std::uint8_t>(
          source, target, [dtype](float value) { return float_to_float8(dtype, value); });
  }
}

double ulp(DType dtype, double x) {
  if (!std::isfinite(x)) return std::numeric_limits<double>::quiet_NaN();
  const DTypeTraits& t = traits(dtype);
  const int exponent =
      x == 0.0 ? t.min_normal_exponent : std::max(std::ilogb(x), t.min_normal_exponent);
  return std::ldexp(1.0, exponent - t.mantissa_bits);
}

}  // namespace kvtool
