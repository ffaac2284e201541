#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kvtool/analysis/comparison.h"
#include "kvtool/base/error.h"

namespace kvtool::analysis {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<std::byte> encode(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * element_size(dtype));
  encode_from_float(dtype, values, bytes);
  return bytes;
}

KvDifference compare(DType dtype, const std::vector<float>& live,
                     const std::vector<float>& reference) {
  return compare_blocks(dtype, encode(dtype, live), encode(dtype, reference));
}

class EveryDType : public testing::TestWithParam<DType> {};

// All values are exact in every type: errors 1, -2, 0, 0; reference 3, 4, 0, 0.
TEST_P(EveryDType, GivesHandComputedFigures) {
  const KvDifference difference =
      compare(GetParam(), {4.0F, 2.0F, 0.0F, 0.0F}, {3.0F, 4.0F, 0.0F, 0.0F});
  EXPECT_EQ(difference.elements, 4U);
  EXPECT_EQ(difference.differing, 2U);
  EXPECT_EQ(difference.nonfinite, 0U);
  EXPECT_EQ(difference.max_abs, 2.0);
  EXPECT_EQ(difference.max_reference, 4.0);
  EXPECT_EQ(difference.sum_squared_error, 5.0);
  EXPECT_EQ(difference.sum_squared_reference, 25.0);
  EXPECT_DOUBLE_EQ(difference.relative_l2(), std::sqrt(0.2));
  EXPECT_EQ(difference.relative_max(), 0.5);
  EXPECT_FALSE(difference.bitwise_equal());
}

TEST_P(EveryDType, EqualBlocksStillMeasureTheReference) {
  const KvDifference difference = compare(GetParam(), {-3.0F, 4.0F}, {-3.0F, 4.0F});
  EXPECT_TRUE(difference.bitwise_equal());
  EXPECT_EQ(difference.elements, 2U);
  EXPECT_EQ(difference.max_reference, 4.0);
  EXPECT_EQ(difference.sum_squared_reference, 25.0);
  EXPECT_EQ(difference.relative_l2(), 0.0);
  EXPECT_EQ(difference.relative_max(), 0.0);
}

TEST_P(EveryDType, NanIsCountedAndLeftOutOfTheFigures) {
  const KvDifference difference = compare(GetParam(), {kNan, 2.0F, 1.0F}, {8.0F, 1.0F, kNan});
  EXPECT_EQ(difference.nonfinite, 2U);
  EXPECT_EQ(difference.differing, 3U);
  EXPECT_EQ(difference.max_abs, 1.0);
  EXPECT_EQ(difference.max_reference, 1.0);
  EXPECT_EQ(difference.sum_squared_error, 1.0);
  EXPECT_EQ(difference.sum_squared_reference, 1.0);
}

TEST_P(EveryDType, EqualNansAreBitwiseEqualAndCounted) {
  const KvDifference difference = compare(GetParam(), {kNan, 2.0F}, {kNan, 2.0F});
  EXPECT_TRUE(difference.bitwise_equal());
  EXPECT_EQ(difference.nonfinite, 1U);
  EXPECT_EQ(difference.sum_squared_reference, 4.0);
}

TEST_P(EveryDType, ZerosOfDifferentSignDifferInBitsOnly) {
  const KvDifference difference = compare(GetParam(), {-0.0F}, {0.0F});
  EXPECT_EQ(difference.differing, 1U);
  EXPECT_EQ(difference.max_abs, 0.0);
  EXPECT_EQ(difference.relative_l2(), 0.0);
}

TEST_P(EveryDType, EmptyBlocksAreEqual) {
  const KvDifference difference = compare_blocks(GetParam(), {}, {});
  EXPECT_EQ(difference.elements, 0U);
  EXPECT_TRUE(difference.bitwise_equal());
  EXPECT_EQ(difference.relative_l2(), 0.0);
  EXPECT_EQ(difference.relative_max(), 0.0);
}

// Sizes around the lanes and the chunks of the implementation, with one
// difference at either end, against a sum written out in the simplest way.
TEST_P(EveryDType, EveryElementOfEverySizeCounts) {
  for (const std::size_t size : {1U, 7U, 8U, 9U, 1023U, 1024U, 1025U, 2047U, 3000U}) {
    std::vector<float> reference(size);
    for (std::size_t i = 0; i < size; ++i) reference[i] = 2.0F - static_cast<float>(i % 5);
    double squares = 0.0;
    for (const float value : reference) squares += static_cast<double>(value) * value;
    for (const std::size_t changed : {std::size_t{0}, size - 1}) {
      std::vector<float> live = reference;
      live[changed] += 1.0F;
      const KvDifference difference = compare(GetParam(), live, reference);
      EXPECT_EQ(difference.elements, size);
      EXPECT_EQ(difference.differing, 1U) << "size " << size << ", element " << changed;
      EXPECT_EQ(difference.sum_squared_error, 1.0);
      EXPECT_EQ(difference.max_abs, 1.0);
      EXPECT_EQ(difference.sum_squared_reference, squares);
      EXPECT_EQ(difference.max_reference, 2.0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, EveryDType,
                         testing::Values(DType::kFloat32, DType::kFloat16, DType::kBFloat16,
                                         DType::kFloat8E4M3, DType::kFloat8E5M2),
                         [](const auto& type) { return std::string(dtype_name(type.param)); });

TEST(KvDifference, InfinityIsNonFinite) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    const KvDifference difference = compare(dtype, {kInf, 1.0F}, {-kInf, 1.0F});
    EXPECT_EQ(difference.nonfinite, 1U);
    EXPECT_EQ(difference.differing, 1U);
    EXPECT_EQ(difference.max_abs, 0.0);
    EXPECT_EQ(difference.max_reference, 1.0);
  }
  // Encoding saturates in fp8, so e5m2's infinity is written as its bits.
  const std::vector<std::byte> infinity{std::byte{0x7c}};
  const std::vector<std::byte> one{std::byte{0x3c}};
  EXPECT_EQ(compare_blocks(DType::kFloat8E5M2, infinity, one).nonfinite, 1U);
  // The same bits are 384 in e4m3fn, which has no infinity.
  const KvDifference e4m3 = compare_blocks(DType::kFloat8E4M3, infinity, infinity);
  EXPECT_EQ(e4m3.nonfinite, 0U);
  EXPECT_EQ(e4m3.max_reference, 384.0);
}

TEST(KvDifference, Float32ExtremesDoNotOverflow) {
  const float largest = std::numeric_limits<float>::max();
  const KvDifference difference = compare(DType::kFloat32, {largest}, {-largest});
  EXPECT_EQ(difference.max_abs, 2.0 * largest);
  EXPECT_EQ(difference.relative_l2(), 2.0);
  EXPECT_EQ(difference.nonfinite, 0U);
}

TEST(KvDifference, ErrorAgainstAZeroReferenceIsInfinite) {
  const KvDifference difference = compare(DType::kBFloat16, {1.0F}, {0.0F});
  EXPECT_EQ(difference.relative_l2(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(difference.relative_max(), std::numeric_limits<double>::infinity());
}

TEST(KvDifference, AddJoinsBlocks) {
  const std::vector<float> live{4.0F, 2.0F, kNan, 5.0F};
  const std::vector<float> reference{3.0F, 4.0F, 1.0F, 12.0F};
  const KvDifference whole = compare(DType::kBFloat16, live, reference);
  KvDifference joined = compare(DType::kBFloat16, {4.0F, 2.0F}, {3.0F, 4.0F});
  joined.add(compare(DType::kBFloat16, {kNan, 5.0F}, {1.0F, 12.0F}));
  EXPECT_EQ(joined.elements, whole.elements);
  EXPECT_EQ(joined.differing, whole.differing);
  EXPECT_EQ(joined.nonfinite, whole.nonfinite);
  EXPECT_EQ(joined.max_abs, 7.0);
  EXPECT_EQ(whole.max_abs, 7.0);
  EXPECT_EQ(joined.max_reference, 12.0);
  EXPECT_EQ(joined.sum_squared_error, 54.0);
  EXPECT_EQ(whole.sum_squared_error, 54.0);
  EXPECT_EQ(joined.sum_squared_reference, whole.sum_squared_reference);
}

TEST(KvDifference, UnalignedBlocksAreAccepted) {
  const std::vector<std::byte> values = encode(DType::kFloat32, {1.0F, 2.0F, 3.0F});
  std::vector<std::byte> shifted(values.size() + 1);
  std::memcpy(shifted.data() + 1, values.data(), values.size());
  shifted.back() ^= std::byte{1};
  const KvDifference difference =
      compare_blocks(DType::kFloat32, std::span(shifted).subspan(1), values);
  EXPECT_EQ(difference.differing, 1U);
  EXPECT_EQ(difference.sum_squared_reference, 14.0);
}

TEST(KvDifference, RejectsBlocksOfDifferentOrBrokenSize) {
  const std::vector<std::byte> four(4);
  const std::vector<std::byte> six(6);
  EXPECT_THROW((void)compare_blocks(DType::kBFloat16, four, six), Error);
  EXPECT_THROW((void)compare_blocks(DType::kFloat32, six, six), Error);
}

}  // namespace
}  // namespace kvtool::analysis
