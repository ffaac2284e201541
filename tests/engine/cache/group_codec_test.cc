#include "engine/cache/codecs/group_codec.h"

#include <gtest/gtest.h>

#include <limits>
#include <tuple>

namespace kvtool::engine {
namespace {

CodedGroups encoded(const GroupCodec& codec, const at::Tensor& rows) {
  const CodedGroups coded = codec.allocate({rows.size(0)}, rows.size(1), rows.size(2), at::kCPU);
  codec.encode(rows, coded);
  return coded;
}

at::Tensor round_trip(const GroupCodec& codec, const at::Tensor& rows) {
  at::Tensor back = at::empty_like(rows);
  codec.decode(encoded(codec, rows), 0, back);
  return back;
}

// By hand: positions 0 to 3 of two channels, one group of four. Channel 0 is 8, 9.5, 11, 8.3: with
// two bits s = (11 - 8) / 3 = 1, z = 8, q = 0, 2 (9.5 to even is 10), 3, 0. Channel 1 is 0.
TEST(GroupCodec, WorkedExample) {
  const at::Tensor rows =
      at::tensor({8.0, 0.0, 9.5, 0.0, 11.0, 0.0, 8.3, 0.0}, at::kFloat).view({1, 4, 2});
  const GroupCodec codec(GroupAxis::kPositions, 2, 4);
  const CodedGroups coded = encoded(codec, rows);
  EXPECT_EQ(coded.codes.sizes(), (std::vector<std::int64_t>{1, 4, 1}));
  EXPECT_TRUE(
      coded.scales.equal(at::tensor({1.0, 0.0}, at::kFloat).to(at::kBFloat16).view({1, 1, 2})));
  EXPECT_EQ(coded.zeros.select(2, 0).item<std::int8_t>(), 8 + 2);
  EXPECT_TRUE(
      round_trip(codec, rows)
          .equal(
              at::tensor({8.0, 0.0, 10.0, 0.0, 11.0, 0.0, 8.0, 0.0}, at::kFloat).view({1, 4, 2})));
}

using AxisAndBits = std::tuple<GroupAxis, std::int64_t>;

class EveryGroupCodec : public testing::TestWithParam<AxisAndBits> {
 protected:
  EveryGroupCodec() : codec_(std::get<0>(GetParam()), bits_, kGroup) { at::manual_seed(3); }

  static constexpr std::int64_t kGroup = 32;
  std::int64_t bits_ = std::get<1>(GetParam());
  GroupCodec codec_;

  // Half the scale of each number: what it may be off by.
  at::Tensor half_scales(const at::Tensor& rows) const {
    const at::Tensor scales = encoded(codec_, rows).scales.to(at::kDouble) / 2;
    if (std::get<0>(GetParam()) == GroupAxis::kPositions) {
      return scales.repeat_interleave(kGroup, 1);
    }
    return scales.repeat_interleave(kGroup, 2).narrow(2, 0, rows.size(2));
  }
};

// Rows with channels far off zero and of unequal size, as K has, and a group that is cut short.
at::Tensor uneven_rows(at::ScalarType dtype, std::int64_t dim = 80) {
  const at::Tensor sizes = at::randn({3, 1, dim}).mul(2).exp();
  return at::randn({3, 96, dim}).mul(sizes).add(sizes.mul(at::randn({3, 1, dim}).mul(5))).to(dtype);
}

TEST_P(EveryGroupCodec, IsOffByHalfAStepAtMost) {
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    const at::Tensor rows = uneven_rows(dtype);
    const at::Tensor exact = rows.to(at::kDouble);
    const at::Tensor kept = round_trip(codec_, rows).to(at::kDouble);
    const double rounding = dtype == at::kFloat ? 1e-6 : dtype == at::kHalf ? 1e-3 : 8e-3;
    const at::Tensor allowed = half_scales(rows).add(kept.abs() * rounding);
    EXPECT_LE((kept - exact).abs().sub(allowed).max().item<double>(), 0.0);
  }
}

// A step is the range of the group over its levels, or a 125th of what a far-off group is around.
TEST_P(EveryGroupCodec, ItsStepIsAsFineAsItSays) {
  const at::Tensor rows = uneven_rows(at::kFloat, 64);
  const bool by_positions = std::get<0>(GetParam()) == GroupAxis::kPositions;
  const at::Tensor groups =
      by_positions ? rows.unflatten(1, {3, kGroup}) : rows.unflatten(2, {2, kGroup});
  const std::int64_t within = by_positions ? 2 : 3;
  const at::Tensor least = groups.amin(within);
  const at::Tensor greatest = groups.amax(within);
  const at::Tensor step =
      at::maximum((greatest - least) / ((1 << bits_) - 1), (greatest + least).abs() / 250);
  const at::Tensor scales = encoded(codec_, rows).scales.to(at::kFloat);
  EXPECT_TRUE(scales.ge(step).all().item<bool>());
  EXPECT_TRUE(scales.le(step * (1 + 1.0 / 128)).all().item<bool>());
}

TEST_P(EveryGroupCodec, TensorsDecodeToTheSameBits) {
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const std::int64_t dim : {64, 80, 6, 300}) {
      const CodedGroups coded = encoded(codec_, uneven_rows(dtype, dim));
      // From the middle of a group on, into rows that do not lie side by side.
      const auto options = at::TensorOptions(dtype);
      const at::Tensor by_loop = at::zeros({3, 100, dim}, options).narrow(1, 7, 50);
      const at::Tensor by_tensors = at::zeros({3, 50, dim}, options);
      codec_.decode(coded, 37, by_loop);
      codec_.decode_by_tensors(coded, 37, by_tensors);
      EXPECT_TRUE(by_loop.equal(by_tensors)) << dim;
    }
  }
}

TEST_P(EveryGroupCodec, AGroupWithoutAFiniteNumberHasNone) {
  for (const double wrong :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    at::Tensor rows = uneven_rows(at::kFloat, 64);
    const at::Tensor before = round_trip(codec_, rows);
    rows.select(0, 1).select(0, 40).select(0, 5).fill_(wrong);
    const at::Tensor kept = round_trip(codec_, rows);
    const bool by_positions = std::get<0>(GetParam()) == GroupAxis::kPositions;
    const at::Tensor group = by_positions ? kept.select(0, 1).narrow(0, 32, 32).select(1, 5)
                                          : kept.select(0, 1).select(0, 40).narrow(0, 0, 32);
    EXPECT_FALSE(group.isfinite().any().item<bool>());
    group.zero_();
    EXPECT_TRUE(kept.isfinite().all().item<bool>());
    EXPECT_TRUE(kept.select(0, 0).equal(before.select(0, 0)));
  }
}

TEST_P(EveryGroupCodec, TakesTheBitsThatItSays) {
  const CodedGroups coded = codec_.allocate({2, 3}, 320, 64, at::kCPU);
  const std::uint64_t numbers = 2 * 3 * 320 * 64;
  // A scale of two bytes and a zero point of one, for 32 numbers.
  EXPECT_EQ(coded.nbytes() * 8, numbers * static_cast<std::uint64_t>(bits_) + numbers * 24 / 32);
}

INSTANTIATE_TEST_SUITE_P(Codecs, EveryGroupCodec,
                         testing::Combine(testing::Values(GroupAxis::kPositions,
                                                          GroupAxis::kChannels),
                                          testing::Values(2, 4, 8)));

}  // namespace
}  // namespace kvtool::engine
