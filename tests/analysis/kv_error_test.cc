#include "kvtool/analysis/kv_error.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "support/error_of.h"

namespace kvtool::analysis {
namespace {

constexpr float kFloatInf = std::numeric_limits<float>::infinity();
constexpr float kFloatNan = std::numeric_limits<float>::quiet_NaN();

std::vector<std::byte> encode(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * element_size(dtype));
  encode_from_float(dtype, values, bytes);
  return bytes;
}

KvError compare(DType dtype, const std::vector<float>& live, const std::vector<float>& reference) {
  return compare_elements(dtype, encode(dtype, live), dtype, encode(dtype, reference));
}

class EveryDType : public testing::TestWithParam<DType> {};

// All values are exact in every type: errors 1, -2, 0, 0; reference 3, 4, 0, 0.
TEST_P(EveryDType, GivesHandComputedFigures) {
  const KvError error = compare(GetParam(), {4.0F, 2.0F, 0.0F, 0.0F}, {3.0F, 4.0F, 0.0F, 0.0F});
  EXPECT_EQ(error.elements, 4U);
  EXPECT_EQ(error.differing, 2U);
  EXPECT_EQ(error.nonfinite, 0U);
  EXPECT_EQ(error.max_abs, 2.0);
  EXPECT_EQ(error.max_reference, 4.0);
  EXPECT_EQ(error.sum_squared_error, 5.0);
  EXPECT_EQ(error.sum_squared_reference, 25.0);
  EXPECT_DOUBLE_EQ(error.relative_l2(), std::sqrt(0.2));
  EXPECT_EQ(error.relative_max(), 0.5);
  EXPECT_FALSE(error.bitwise_equal());
}

TEST_P(EveryDType, EqualElementsStillMeasureTheReference) {
  const KvError error = compare(GetParam(), {-3.0F, 4.0F}, {-3.0F, 4.0F});
  EXPECT_TRUE(error.bitwise_equal());
  EXPECT_EQ(error.elements, 2U);
  EXPECT_EQ(error.max_reference, 4.0);
  EXPECT_EQ(error.sum_squared_reference, 25.0);
  EXPECT_EQ(error.relative_l2(), 0.0);
  EXPECT_EQ(error.relative_max(), 0.0);
}

TEST_P(EveryDType, NanIsCountedAndLeftOutOfTheFigures) {
  const KvError error = compare(GetParam(), {kFloatNan, 2.0F, 1.0F}, {8.0F, 1.0F, kFloatNan});
  EXPECT_EQ(error.nonfinite, 2U);
  EXPECT_EQ(error.differing, 3U);
  EXPECT_EQ(error.max_abs, 1.0);
  EXPECT_EQ(error.max_reference, 1.0);
  EXPECT_EQ(error.sum_squared_error, 1.0);
  EXPECT_EQ(error.sum_squared_reference, 1.0);
}

TEST_P(EveryDType, EqualNansAreBitwiseEqualAndCounted) {
  const KvError error = compare(GetParam(), {kFloatNan, 2.0F}, {kFloatNan, 2.0F});
  EXPECT_TRUE(error.bitwise_equal());
  EXPECT_EQ(error.nonfinite, 1U);
  EXPECT_EQ(error.sum_squared_reference, 4.0);
}

TEST_P(EveryDType, ZerosOfDifferentSignDifferInBitsOnly) {
  const KvError error = compare(GetParam(), {-0.0F}, {0.0F});
  EXPECT_EQ(error.differing, 1U);
  EXPECT_EQ(error.max_abs, 0.0);
  EXPECT_EQ(error.relative_l2(), 0.0);
}

TEST_P(EveryDType, NoElementsAreEqual) {
  const KvError error = compare_elements(GetParam(), {}, GetParam(), {});
  EXPECT_EQ(error.elements, 0U);
  EXPECT_TRUE(error.bitwise_equal());
  EXPECT_EQ(error.relative_l2(), 0.0);
  EXPECT_EQ(error.relative_max(), 0.0);
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
      const KvError error = compare(GetParam(), live, reference);
      EXPECT_EQ(error.elements, size);
      EXPECT_EQ(error.differing, 1U) << "size " << size << ", element " << changed;
      EXPECT_EQ(error.sum_squared_error, 1.0);
      EXPECT_EQ(error.max_abs, 1.0);
      EXPECT_EQ(error.sum_squared_reference, squares);
      EXPECT_EQ(error.max_reference, 2.0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, EveryDType,
                         testing::Values(DType::kFloat32, DType::kFloat16, DType::kBFloat16,
                                         DType::kFloat8E4M3, DType::kFloat8E5M2),
                         [](const auto& type) { return std::string(dtype_name(type.param)); });

TEST(KvError, InfinityIsNonFinite) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    const KvError error = compare(dtype, {kFloatInf, 1.0F}, {-kFloatInf, 1.0F});
    EXPECT_EQ(error.nonfinite, 1U);
    EXPECT_EQ(error.differing, 1U);
    EXPECT_EQ(error.max_abs, 0.0);
    EXPECT_EQ(error.max_reference, 1.0);
  }
  // Encoding saturates in fp8, so e5m2's infinity is written as its bits.
  const std::vector<std::byte> infinity{std::byte{0x7c}};
  const std::vector<std::byte> one{std::byte{0x3c}};
  EXPECT_EQ(compare_elements(DType::kFloat8E5M2, infinity, DType::kFloat8E5M2, one).nonfinite, 1U);
  // The same bits are 384 in e4m3fn, which has no infinity.
  const KvError e4m3 = compare_elements(DType::kFloat8E4M3, infinity, DType::kFloat8E4M3, infinity);
  EXPECT_EQ(e4m3.nonfinite, 0U);
  EXPECT_EQ(e4m3.max_reference, 384.0);
}

TEST(KvError, Float32ExtremesDoNotOverflow) {
  const float largest = std::numeric_limits<float>::max();
  const KvError error = compare(DType::kFloat32, {largest}, {-largest});
  EXPECT_EQ(error.max_abs, 2.0 * largest);
  EXPECT_EQ(error.relative_l2(), 2.0);
  EXPECT_EQ(error.nonfinite, 0U);
}

TEST(KvError, ErrorAgainstAZeroReferenceIsInfinite) {
  const KvError error = compare(DType::kBFloat16, {1.0F}, {0.0F});
  EXPECT_EQ(error.relative_l2(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(error.relative_max(), std::numeric_limits<double>::infinity());
}

TEST(KvError, AddJoinsBlocks) {
  const std::vector<float> live{4.0F, 2.0F, kFloatNan, 5.0F};
  const std::vector<float> reference{3.0F, 4.0F, 1.0F, 12.0F};
  const KvError whole = compare(DType::kBFloat16, live, reference);
  KvError joined = compare(DType::kBFloat16, {4.0F, 2.0F}, {3.0F, 4.0F});
  joined.add(compare(DType::kBFloat16, {kFloatNan, 5.0F}, {1.0F, 12.0F}));
  EXPECT_EQ(joined.elements, whole.elements);
  EXPECT_EQ(joined.differing, whole.differing);
  EXPECT_EQ(joined.nonfinite, whole.nonfinite);
  EXPECT_EQ(joined.max_abs, 7.0);
  EXPECT_EQ(whole.max_abs, 7.0);
  EXPECT_EQ(joined.max_reference, 12.0);
  EXPECT_EQ(joined.sum_squared_error, 54.0);
  EXPECT_EQ(whole.sum_squared_error, 54.0);
  EXPECT_EQ(joined.sum_squared_reference, whole.sum_squared_reference);
  EXPECT_EQ(joined.sum_error_reference, whole.sum_error_reference);
  EXPECT_DOUBLE_EQ(joined.sum_squared_floor, whole.sum_squared_floor);
  EXPECT_EQ(joined.ulp_p99(), whole.ulp_p99());
  EXPECT_EQ(joined.ulps.total(), 3U);
}

TEST(KvError, UnalignedBlocksAreAccepted) {
  const std::vector<std::byte> values = encode(DType::kFloat32, {1.0F, 2.0F, 3.0F});
  std::vector<std::byte> shifted(values.size() + 1);
  std::memcpy(shifted.data() + 1, values.data(), values.size());
  shifted.back() ^= std::byte{1};
  const KvError error =
      compare_elements(DType::kFloat32, std::span(shifted).subspan(1), DType::kFloat32, values);
  EXPECT_EQ(error.differing, 1U);
  EXPECT_EQ(error.sum_squared_reference, 14.0);
}

TEST(KvError, RejectsSidesOfDifferentOrBrokenSize) {
  const std::vector<std::byte> four(4);
  const std::vector<std::byte> six(6);
  for (const Error& error :
       {error_of([&] { (void)compare_elements(DType::kBFloat16, four, DType::kBFloat16, six); }),
        error_of([&] { (void)compare_elements(DType::kFloat32, six, DType::kFloat32, six); }),
        error_of([&] { (void)compare_elements(DType::kFloat32, four, DType::kBFloat16, four); })}) {
    EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
  }
}

// reference [3, 4], live [3.03, 4.04] in float32: everything is 1 % larger.
TEST(KvError, ScaleErrorFindsAFactor) {
  const KvError error = compare(DType::kFloat32, {3.03F, 4.04F}, {3.0F, 4.0F});
  EXPECT_NEAR(error.scale_error(), 0.01, 1e-7);
  EXPECT_NEAR(error.relative_l2(), 0.01, 1e-7);
  EXPECT_NEAR(error.cosine(), 1.0, 1e-12);
}

// live [4, 2, 0, 0], reference [3, 4, 0, 0]: <e, r> = 3 - 8 = -5, <x, r> = 20.
TEST(KvError, GivesHandComputedScaleAndCosine) {
  const KvError error =
      compare(DType::kBFloat16, {4.0F, 2.0F, 0.0F, 0.0F}, {3.0F, 4.0F, 0.0F, 0.0F});
  EXPECT_EQ(error.sum_error_reference, -5.0);
  EXPECT_DOUBLE_EQ(error.scale_error(), -0.2);
  EXPECT_DOUBLE_EQ(error.cosine(), 20.0 / (std::sqrt(20.0) * 5.0));
}

TEST(KvError, CosineOfZerosIsDefined) {
  EXPECT_EQ(compare(DType::kBFloat16, {0.0F}, {0.0F}).cosine(), 1.0);
  EXPECT_EQ(compare(DType::kBFloat16, {1.0F}, {0.0F}).cosine(), 0.0);
  EXPECT_EQ(compare(DType::kBFloat16, {0.0F}, {1.0F}).cosine(), 0.0);
  EXPECT_EQ(compare(DType::kBFloat16, {-2.0F}, {1.0F}).cosine(), -1.0);
}

// live [4, 2, 0, 0], reference [3, 4, 0, 0]: means 1.5 and 1.75.
TEST(KvError, GivesTheHandComputedPearsonCorrelation) {
  const double expected = 9.5 / std::sqrt(11.0 * 12.75);
  EXPECT_DOUBLE_EQ(
      compare(DType::kBFloat16, {4.0F, 2.0F, 0.0F, 0.0F}, {3.0F, 4.0F, 0.0F, 0.0F}).pearson(),
      expected);
  // A factor, an offset: the same. Its opposite: the negative.
  EXPECT_DOUBLE_EQ(
      compare(DType::kBFloat16, {9.0F, 5.0F, 1.0F, 1.0F}, {3.0F, 4.0F, 0.0F, 0.0F}).pearson(),
      expected);
  EXPECT_DOUBLE_EQ(
      compare(DType::kBFloat16, {-4.0F, -2.0F, 0.0F, 0.0F}, {3.0F, 4.0F, 0.0F, 0.0F}).pearson(),
      -expected);
  EXPECT_EQ(compare(DType::kBFloat16, {5.0F, 6.0F}, {1.0F, 2.0F}).pearson(), 1.0);
}

TEST(KvError, PearsonLeavesOutNonFinitePairs) {
  const double expected = 9.5 / std::sqrt(11.0 * 12.75);
  EXPECT_DOUBLE_EQ(compare(DType::kBFloat16, {kFloatNan, 4.0F, 2.0F, 7.0F, 0.0F, 0.0F},
                           {100.0F, 3.0F, 4.0F, kFloatInf, 0.0F, 0.0F})
                       .pearson(),
                   expected);
  EXPECT_EQ(compare(DType::kBFloat16, {kFloatNan, 4.0F, 2.0F}, {kFloatNan, 4.0F, 2.0F}).pearson(),
            1.0);
  EXPECT_EQ(compare(DType::kBFloat16, {kFloatNan}, {kFloatNan}).pearson(), 0.0)
      << "nothing to compare";
  EXPECT_EQ(KvError().pearson(), 0.0);
}

TEST(KvError, PearsonOfASideThatDoesNotVaryIsDefined) {
  // 0.1 and its square are not exact in any type; eleven leave a tail behind the lanes.
  const std::vector<float> tenths(11, 0.1F);
  std::vector<float> varying = tenths;
  varying[10] = 0.2F;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    EXPECT_EQ(compare(dtype, tenths, tenths).pearson(), 1.0);
    EXPECT_EQ(compare(dtype, std::vector<float>(11, 0.3F), tenths).pearson(), 0.0);
    EXPECT_EQ(compare(dtype, varying, tenths).pearson(), 0.0);
    EXPECT_EQ(compare(dtype, tenths, varying).pearson(), 0.0);
  }
  KvError joined = compare(DType::kFloat32, tenths, tenths);
  joined.add(compare(DType::kFloat32, tenths, tenths));
  EXPECT_EQ(joined.moments.reference, 0.0) << "joining adds no rounding";
  EXPECT_EQ(joined.pearson(), 1.0);
  joined.add(compare(DType::kFloat32, {0.2F}, {0.1F}));
  EXPECT_EQ(joined.pearson(), 0.0);
}

struct CorrelationCase {
  std::size_t size;
  float mean;
  double tolerance;
};

// Two passes written out in long double.
double two_pass_pearson(const std::vector<float>& live, const std::vector<float>& reference) {
  const auto count = static_cast<long double>(live.size());
  const long double x = std::accumulate(live.begin(), live.end(), 0.0L) / count;
  const long double r = std::accumulate(reference.begin(), reference.end(), 0.0L) / count;
  long double xx = 0.0L;
  long double rr = 0.0L;
  long double xr = 0.0L;
  for (std::size_t i = 0; i < live.size(); ++i) {
    xx += (live[i] - x) * (live[i] - x);
    rr += (reference[i] - r) * (reference[i] - r);
    xr += (live[i] - x) * (reference[i] - r);
  }
  return static_cast<double>(xr / std::sqrt(xx * rr));
}

// Over lanes, chunks and joined rows. With a mean of a million, plain float64 sums of squares
// (3e15) would lose most digits of those about the mean (1e4).
TEST(KvError, PearsonIsThatOfTwoPasses) {
  for (const CorrelationCase& given :
       {CorrelationCase{9, 1.0F, 1e-14}, CorrelationCase{1023, 1.0F, 1e-14},
        CorrelationCase{1025, 1.0F, 1e-14}, CorrelationCase{3000, 1e6F, 1e-10}}) {
    std::vector<float> reference;
    std::vector<float> live;
    for (std::size_t i = 0; i < given.size; ++i) {
      reference.push_back(given.mean + 0.0625F * static_cast<float>(i * 7919 % 101));
      live.push_back(0.0625F * static_cast<float>(i * 104729 % 17) - reference.back());
    }
    const double expected = two_pass_pearson(live, reference);
    EXPECT_GT(expected, -0.999);
    EXPECT_LT(expected, -0.9);
    EXPECT_NEAR(compare(DType::kFloat32, live, reference).pearson(), expected, given.tolerance);
    KvError joined;
    for (std::size_t first = 0; first < given.size; first += 64) {
      const std::size_t count = std::min<std::size_t>(64, given.size - first);
      const auto row = [&](const std::vector<float>& values) {
        return std::vector<float>(values.begin() + static_cast<std::ptrdiff_t>(first),
                                  values.begin() + static_cast<std::ptrdiff_t>(first + count));
      };
      joined.add(compare(DType::kFloat32, row(live), row(reference)));
    }
    EXPECT_NEAR(joined.pearson(), expected, given.tolerance) << given.size << " in rows";
    EXPECT_EQ(joined.moments.count, given.size);
  }
}

// Whatever rounding the sums have, both sides have the same.
TEST(KvError, PearsonOfEqualSidesIsExactlyOne) {
  KvError joined;
  for (std::size_t row = 0; row < 50; ++row) {
    std::vector<float> values;
    for (std::size_t i = 0; i < 64; ++i) {
      values.push_back(0.1F * static_cast<float>((i * 31 + row * 17) % 97) - 3.3F);
    }
    joined.add(compare(DType::kFloat32, values, values));
    EXPECT_EQ(joined.pearson(), 1.0) << row;
  }
  // Other bits, equal values.
  EXPECT_EQ(compare(DType::kFloat32, {-0.0F, 0.1F, 0.3F}, {0.0F, 0.1F, 0.3F}).pearson(), 1.0);
}

TEST(KvError, ErrorOfANotMeasuredScaleIsZero) {
  EXPECT_EQ(compare(DType::kBFloat16, {1.0F}, {0.0F}).scale_error(), 0.0);
}

TEST(KvError, RoundingFloorFollowsTheTypesPrecision) {
  EXPECT_DOUBLE_EQ(storage_rounding_floor(DType::kBFloat16), 0x1p-8 / std::sqrt(7.0));
  EXPECT_DOUBLE_EQ(storage_rounding_floor(DType::kFloat16), 0x1p-11 / std::sqrt(7.0));
  EXPECT_DOUBLE_EQ(storage_rounding_floor(DType::kFloat32), 0x1p-24 / std::sqrt(7.0));
  EXPECT_DOUBLE_EQ(storage_rounding_floor(DType::kFloat8E4M3), 0x1p-4 / std::sqrt(7.0));
}

// Relative L2 1/128 against 2^-8 / sqrt(7): 2 sqrt(7) floors.
TEST(KvError, FloorRatioCountsRoundings) {
  const KvError error = compare(DType::kBFloat16, {1.0F + 0x1p-7F}, {1.0F});
  EXPECT_DOUBLE_EQ(error.floor_ratio(), 2.0 * std::sqrt(7.0));
  EXPECT_EQ(compare(DType::kBFloat16, {1.0F}, {1.0F}).floor_ratio(), 0.0);
}

// Values that are spread evenly over a binade, rounded once: the floor itself.
TEST(KvError, RoundingOnceLeavesAboutOneFloor) {
  std::vector<float> exact(4096);
  for (std::size_t i = 0; i < exact.size(); ++i) {
    exact[i] = 1.0F + (static_cast<float>(i) + 0.37F) / 4096.0F;
  }
  const KvError error = compare_elements(DType::kBFloat16, encode(DType::kBFloat16, exact),
                                         DType::kFloat32, encode(DType::kFloat32, exact));
  EXPECT_NEAR(error.relative_l2() / storage_rounding_floor(DType::kBFloat16), 1.0, 0.02);
}

struct DistanceCase {
  DType dtype;
  float live;
  float reference;
  double distance;
};

TEST(KvError, DistanceCountsRepresentableValues) {
  const float tiny = 0x1p-133F;  // bf16's smallest subnormal
  for (const DistanceCase& given : {DistanceCase{DType::kBFloat16, 1.0F, 1.0F, 0.0},
                                    DistanceCase{DType::kBFloat16, 1.0F + 0x1p-7F, 1.0F, 1.0},
                                    DistanceCase{DType::kBFloat16, 1.0F, 1.0F - 0x1p-8F, 1.0},
                                    DistanceCase{DType::kBFloat16, -1.0F, -1.0F - 0x1p-6F, 2.0},
                                    DistanceCase{DType::kBFloat16, tiny, -tiny, 2.0},
                                    DistanceCase{DType::kBFloat16, 0.0F, -0.0F, 0.0},
                                    DistanceCase{DType::kFloat16, 1.0F + 0x1p-10F, 1.0F, 1.0},
                                    DistanceCase{DType::kFloat8E4M3, 1.125F, 1.0F, 1.0},
                                    DistanceCase{DType::kFloat8E5M2, 1.25F, 1.0F, 1.0},
                                    DistanceCase{DType::kFloat32, 1.0F + 0x1p-20F, 1.0F, 8.0}}) {
    const KvError error = compare(given.dtype, {given.live}, {given.reference});
    EXPECT_EQ(error.ulp_p99(), given.distance)
        << dtype_name(given.dtype) << " " << given.live << " " << given.reference;
    EXPECT_EQ(error.ulps.total(), 1U);
  }
}

TEST(KvError, LargestDistanceOfFloat32IsInTheLastBucket) {
  const float largest = std::numeric_limits<float>::max();
  const double distance = 2.0 * static_cast<double>(0x7f7fffff);
  const double bucket = compare(DType::kFloat32, {largest}, {-largest}).ulp_p99();
  EXPECT_GE(bucket, distance);
  EXPECT_LE(bucket, 1.25 * distance);
}

// 98 equal, one 1 ulp off, one 3 ulp off: the 99th of 100 is 1.
TEST(KvError, UlpP99IsANearestRank) {
  std::vector<float> reference(100, 1.0F);
  std::vector<float> live = reference;
  live[40] += 0x1p-7F;
  live[41] += 3 * 0x1p-7F;
  EXPECT_EQ(compare(DType::kBFloat16, live, reference).ulp_p99(), 1.0);
  live[42] += 2 * 0x1p-7F;
  EXPECT_EQ(compare(DType::kBFloat16, live, reference).ulp_p99(), 2.0);
}

TEST(KvError, NonFinitePairsHaveNoDistance) {
  const KvError error =
      compare(DType::kBFloat16, {kFloatNan, 1.0F, kFloatInf}, {1.0F, 1.0F, kFloatInf});
  EXPECT_EQ(error.ulps.total(), 1U);
  EXPECT_EQ(error.ulp_p99(), 0.0);
}

// bf16 live against a float32 reference: 1 and 1.5 are exact, 1 + 2^-8 is not and
// lies 2^-8 = 32768 float32 values beside what bf16 makes of it (1).
TEST(KvError, DifferentTypesAreComparedByValue) {
  const std::vector<float> values{1.0F, 1.5F, 1.0F + 0x1p-8F};
  const KvError error = compare_elements(DType::kBFloat16, encode(DType::kBFloat16, values),
                                         DType::kFloat32, encode(DType::kFloat32, values));
  EXPECT_EQ(error.elements, 3U);
  EXPECT_EQ(error.differing, 1U);
  EXPECT_EQ(error.max_abs, 0x1p-8);
  EXPECT_EQ(error.sum_squared_error, 0x1p-16);
  EXPECT_GE(error.ulp_p99(), 32768.0);
  EXPECT_LE(error.ulp_p99(), 40960.0);
}

// Float32 live against a bf16 reference: the value differs, its rounding does not.
TEST(KvError, DistanceIsTakenAfterRoundingToTheReferencesType) {
  const KvError error =
      compare_elements(DType::kFloat32, encode(DType::kFloat32, {1.0F + 0x1p-12F}),
                       DType::kBFloat16, encode(DType::kBFloat16, {1.0F}));
  EXPECT_EQ(error.differing, 1U);
  EXPECT_EQ(error.ulp_p99(), 0.0);
  EXPECT_EQ(error.sum_squared_floor, std::pow(storage_rounding_floor(DType::kBFloat16), 2.0));
}

// The comparison decodes with loops of its own.
TEST(KvError, EveryBitPatternIsDecodedLikeTheTypeItself) {
  for (const DType dtype :
       {DType::kFloat16, DType::kBFloat16, DType::kFloat8E4M3, DType::kFloat8E5M2}) {
    const std::size_t width = element_size(dtype);
    for (std::uint32_t bits = 0; bits < (1U << (8 * width)); ++bits) {
      std::vector<std::byte> pattern(width);
      std::memcpy(pattern.data(), &bits, width);
      float value = 0.0F;
      decode_to_float(dtype, pattern, std::span(&value, 1));
      const KvError error = compare_elements(dtype, pattern, dtype, pattern);
      ASSERT_EQ(error.nonfinite, std::isfinite(value) ? 0U : 1U) << dtype_name(dtype) << bits;
      if (!std::isfinite(value)) continue;
      ASSERT_EQ(error.max_reference, std::abs(value)) << dtype_name(dtype) << " " << bits;
      // Against 1 the sign shows.
      const std::vector<std::byte> one = encode(dtype, {1.0F});
      ASSERT_EQ(compare_elements(dtype, pattern, dtype, one).sum_error_reference,
                static_cast<double>(value) - 1.0)
          << dtype_name(dtype) << " " << bits;
    }
  }
}

TEST(KvError, ReusedErrorForgetsTheRowBefore) {
  const std::vector<std::byte> a = encode(DType::kBFloat16, {1.0F, 2.0F, kFloatNan});
  const std::vector<std::byte> b = encode(DType::kBFloat16, {3.0F, 2.0F, 1.0F});
  KvError error;
  compare_elements(DType::kBFloat16, a, DType::kBFloat16, b, error);
  compare_elements(DType::kBFloat16, std::span(a).first(4), DType::kBFloat16, std::span(a).first(4),
                   error);
  EXPECT_EQ(error.elements, 2U);
  EXPECT_EQ(error.differing, 0U);
  EXPECT_EQ(error.nonfinite, 0U);
  EXPECT_EQ(error.max_abs, 0.0);
  EXPECT_EQ(error.sum_squared_reference, 5.0);
  EXPECT_EQ(error.ulps.total(), 2U);
  EXPECT_EQ(error.ulp_p99(), 0.0);
}

TEST(KvKinds, HaveNames) {
  EXPECT_EQ(kv_kind_name(KvKind::kKey), "key");
  EXPECT_EQ(kv_kind_name(KvKind::kValue), "value");
}

}  // namespace
}  // namespace kvtool::analysis
