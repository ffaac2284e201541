#include "kvtool/base/dtype.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace kvtool {
namespace {

struct SmallFormat {
  DType dtype;
  int exponent_bits;
  int mantissa;
  int bias;
  std::uint32_t largest_finite;
  bool saturates;
};

constexpr SmallFormat kFloat16 = {DType::kFloat16, 5, 10, 15, 0x7bff, false};
constexpr SmallFormat kBFloat16 = {DType::kBFloat16, 8, 7, 127, 0x7f7f, false};
constexpr SmallFormat kE4M3 = {DType::kFloat8E4M3, 4, 3, 7, 0x7e, true};
constexpr SmallFormat kE5M2 = {DType::kFloat8E5M2, 5, 2, 15, 0x7b, true};

float decode(DType dtype, std::uint32_t bits) {
  std::array<std::byte, 4> bytes{};
  std::memcpy(bytes.data(), &bits, sizeof(bits));
  float value = 0;
  decode_to_float(dtype, std::span(bytes).first(element_size(dtype)), std::span(&value, 1));
  return value;
}

std::uint32_t encode(DType dtype, float value) {
  std::array<std::byte, 4> bytes{};
  encode_from_float(dtype, std::span(&value, 1), std::span(bytes).first(element_size(dtype)));
  std::uint32_t bits = 0;
  std::memcpy(&bits, bytes.data(), sizeof(bits));
  return bits;
}

// Straight from the definition of a binary floating-point format.
double expected_value(const SmallFormat& format, std::uint32_t magnitude) {
  const std::uint32_t exponent = magnitude >> format.mantissa;
  const std::uint32_t fraction = magnitude & ((1u << format.mantissa) - 1);
  if (exponent == 0) return std::ldexp(fraction, 1 - format.bias - format.mantissa);
  return std::ldexp(fraction + (1u << format.mantissa),
                    static_cast<int>(exponent) - format.bias - format.mantissa);
}

class SmallFormats : public testing::TestWithParam<SmallFormat> {
 protected:
  [[nodiscard]] std::uint32_t sign_bit() const {
    return 1u << (GetParam().exponent_bits + GetParam().mantissa);
  }
};

INSTANTIATE_TEST_SUITE_P(All, SmallFormats, testing::Values(kFloat16, kBFloat16, kE4M3, kE5M2),
                         [](const auto& format) {
                           return std::string(dtype_name(format.param.dtype));
                         });

TEST_P(SmallFormats, DecodesEveryFiniteCodeExactly) {
  for (std::uint32_t code = 0; code <= GetParam().largest_finite; ++code) {
    const double expected = expected_value(GetParam(), code);
    ASSERT_EQ(decode(GetParam().dtype, code), expected) << code;
    ASSERT_EQ(decode(GetParam().dtype, code | sign_bit()), -expected) << code;
  }
  EXPECT_TRUE(std::signbit(decode(GetParam().dtype, sign_bit())));
}

TEST_P(SmallFormats, DecodesInfinityAndNan) {
  const std::uint32_t next = GetParam().largest_finite + 1;
  if (GetParam().dtype == DType::kFloat8E4M3) {
    EXPECT_TRUE(std::isnan(decode(GetParam().dtype, next)));
    EXPECT_TRUE(std::isnan(decode(GetParam().dtype, next | sign_bit())));
    return;
  }
  EXPECT_EQ(decode(GetParam().dtype, next), std::numeric_limits<float>::infinity());
  EXPECT_EQ(decode(GetParam().dtype, next | sign_bit()), -std::numeric_limits<float>::infinity());
  for (std::uint32_t code = next + 1; code < sign_bit(); ++code) {
    ASSERT_TRUE(std::isnan(decode(GetParam().dtype, code))) << code;
  }
}

TEST_P(SmallFormats, EncodesWhatItDecodes) {
  for (std::uint32_t code = 0; code <= GetParam().largest_finite; ++code) {
    ASSERT_EQ(encode(GetParam().dtype, decode(GetParam().dtype, code)), code);
    ASSERT_EQ(encode(GetParam().dtype, decode(GetParam().dtype, code | sign_bit())),
              code | sign_bit());
  }
}

TEST_P(SmallFormats, RoundsToNearestAndTiesToEven) {
  for (std::uint32_t code = 0; code < GetParam().largest_finite; ++code) {
    const double middle =
        (expected_value(GetParam(), code) + expected_value(GetParam(), code + 1)) / 2;
    const auto tie = static_cast<float>(middle);
    // Only float32 subnormals below bfloat16's have no exact middle.
    if (static_cast<double>(tie) != middle || !std::isnormal(tie)) continue;
    const std::uint32_t even = code % 2 == 0 ? code : code + 1;
    ASSERT_EQ(encode(GetParam().dtype, tie), even) << code;
    ASSERT_EQ(encode(GetParam().dtype, std::nextafter(tie, 0.0f)), code) << code;
    ASSERT_EQ(encode(GetParam().dtype, std::nextafter(tie, INFINITY)), code + 1) << code;
  }
}

TEST_P(SmallFormats, TreatsOverflowAsItsStandardDoes) {
  const std::uint32_t largest = GetParam().largest_finite;
  const std::uint32_t beyond = GetParam().saturates ? largest : largest + 1;
  EXPECT_EQ(encode(GetParam().dtype, std::numeric_limits<float>::max()), beyond);
  EXPECT_EQ(encode(GetParam().dtype, -std::numeric_limits<float>::infinity()), beyond | sign_bit());
  EXPECT_EQ(encode(GetParam().dtype, std::numeric_limits<float>::infinity()), beyond);
}

TEST_P(SmallFormats, KeepsNan) {
  const auto payload_in_the_low_bits = std::bit_cast<float>(0x7f800001u);
  for (const float nan : {std::numeric_limits<float>::quiet_NaN(), payload_in_the_low_bits}) {
    EXPECT_TRUE(std::isnan(decode(GetParam().dtype, encode(GetParam().dtype, nan))));
  }
}

TEST_P(SmallFormats, UlpIsTheDistanceToTheNextCode) {
  for (std::uint32_t code = 0; code < GetParam().largest_finite; ++code) {
    const double value = expected_value(GetParam(), code);
    ASSERT_EQ(ulp(GetParam().dtype, value), expected_value(GetParam(), code + 1) - value) << code;
    ASSERT_EQ(ulp(GetParam().dtype, -value), ulp(GetParam().dtype, value));
  }
}

TEST(BFloat16, RoundsFloat32Subnormals) {
  EXPECT_EQ(encode(DType::kBFloat16, std::bit_cast<float>(0x00018000u)), 0x2u);
  EXPECT_EQ(encode(DType::kBFloat16, std::bit_cast<float>(0x00008000u)), 0x0u);
  EXPECT_EQ(encode(DType::kBFloat16, std::bit_cast<float>(0x00008001u)), 0x1u);
}

TEST(Float32, PassesBitsThrough) {
  EXPECT_EQ(encode(DType::kFloat32, std::bit_cast<float>(0x7fa00001u)), 0x7fa00001u);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(decode(DType::kFloat32, 0x00000001u)), 1u);
}

TEST(Ulp, FollowsTheFormulaBetweenCodes) {
  EXPECT_EQ(ulp(DType::kBFloat16, 1.0), std::ldexp(1.0, -7));
  EXPECT_EQ(ulp(DType::kBFloat16, 20.3), std::ldexp(1.0, -3));
  EXPECT_EQ(ulp(DType::kFloat16, 1.999), std::ldexp(1.0, -10));
  EXPECT_EQ(ulp(DType::kFloat32, -8.0), std::ldexp(1.0, -20));
  EXPECT_EQ(ulp(DType::kFloat32, 0.0), std::ldexp(1.0, -149));
}

TEST(Ulp, IsNanForWhatHasNoNeighbour) {
  EXPECT_TRUE(std::isnan(ulp(DType::kFloat32, std::numeric_limits<double>::infinity())));
  EXPECT_TRUE(std::isnan(ulp(DType::kFloat32, std::numeric_limits<double>::quiet_NaN())));
}

TEST(DTypeNames, AreTorchsAndParseBack) {
  for (std::uint8_t value = 1; value <= 5; ++value) {
    const auto dtype = static_cast<DType>(value);
    EXPECT_EQ(parse_dtype(dtype_name(dtype)), dtype);
    EXPECT_TRUE(is_known_dtype(value));
  }
  EXPECT_EQ(dtype_name(DType::kFloat8E4M3), "float8_e4m3fn");
  EXPECT_EQ(safetensors_name(DType::kFloat8E4M3), "F8_E4M3");
  EXPECT_EQ(parse_dtype("Float32"), std::nullopt);
  EXPECT_FALSE(is_known_dtype(0));
  EXPECT_FALSE(is_known_dtype(6));
}

TEST(Decode, ReadsUnalignedSpans) {
  std::vector<std::byte> bytes(9);
  const std::array<float, 2> values = {1.5f, -2.0f};
  encode_from_float(DType::kFloat32, values, std::span(bytes).subspan(1));
  std::array<float, 2> back{};
  decode_to_float(DType::kFloat32, std::span(bytes).subspan(1), back);
  EXPECT_EQ(back, values);
}

}  // namespace
}  // namespace kvtool
