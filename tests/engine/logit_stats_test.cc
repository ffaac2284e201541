#include "engine/logit_stats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

namespace kvtool::engine {
namespace {

using testing::NanSensitiveFloatEq;
using testing::Pointwise;

format::StepStats unpacked(const LogitStats& stats, const at::Tensor& packed) {
  format::StepStats result;
  stats.unpack({packed.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(packed.numel())},
               result);
  return result;
}

format::StepStats stats_of(const LogitStats& stats, const at::Tensor& logits) {
  return unpacked(stats, stats.pack(logits.unsqueeze(0), {})[0]);
}

at::Tensor row(std::vector<float> values) { return at::tensor(values, at::kFloat); }

TEST(LogitStats, LowestIdWinsATie) {
  const LogitStats stats(6, 4, {}, at::kCPU);
  const auto result = stats_of(stats, row({1, 5, -2, 5, 5, 0}));
  EXPECT_EQ(result.token, 1);
  EXPECT_EQ(result.top_ids, (std::vector<std::int32_t>{1, 3, 4, 0}));
  EXPECT_EQ(result.top_logits, (std::vector<float>{5, 5, 5, 1}));
}

TEST(LogitStats, LowestIdsFillATiedTail) {
  const LogitStats stats(6, 2, {}, at::kCPU);
  EXPECT_EQ(stats_of(stats, row({0, 0, 9, 0, 0, 0})).top_ids, (std::vector<std::int32_t>{2, 0}));
}

TEST(LogitStats, NegativeLogitsKeepTheirOrder) {
  const LogitStats stats(4, 4, {}, at::kCPU);
  const auto result = stats_of(stats, row({-3.5F, -1.25F, -1e30F, -2.0F}));
  EXPECT_EQ(result.top_ids, (std::vector<std::int32_t>{1, 3, 0, 2}));
  EXPECT_EQ(result.top_logits, (std::vector<float>{-1.25F, -2.0F, -3.5F, -1e30F}));
}

TEST(LogitStats, ZerosOfBothSignsTie) {
  const LogitStats stats(3, 3, {}, at::kCPU);
  EXPECT_EQ(stats_of(stats, row({-0.0F, 0.0F, -1.0F})).top_ids,
            (std::vector<std::int32_t>{0, 1, 2}));
}

TEST(LogitStats, LogSumExpIsThatOfTheWholeRow) {
  const LogitStats stats(4, 1, {}, at::kCPU);
  const auto result = stats_of(stats, row({100, 101, 99, -50}));
  const double expected = 101 + std::log(1 + std::exp(-1.0) + std::exp(-2.0) + std::exp(-151.0));
  EXPECT_NEAR(result.logsumexp, expected, 1e-6);
}

TEST(LogitStats, NanYieldsNoToken) {
  const LogitStats stats(3, 2, {}, at::kCPU);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(stats_of(stats, row({1, nan, 2})).token, -1);
  EXPECT_EQ(stats_of(stats, row({1, -nan, 2})).token, -1);
}

struct NanBits {
  at::ScalarType dtype;
  at::ScalarType integer;
  std::int64_t positive;
  std::int64_t negative;  // the default NaN of x86
};

class NanOfAHead : public testing::TestWithParam<NanBits> {};

TEST_P(NanOfAHead, IsTheGreedyChoiceWhateverItsSign) {
  const LogitStats stats(3, 2, {}, at::kCPU);
  for (const std::int64_t bits : {GetParam().positive, GetParam().negative}) {
    const at::Tensor logits = row({1, 0, 2}).to(GetParam().dtype);
    logits.view(GetParam().integer)[1] = bits;
    const std::int64_t key = stats.greedy_keys(logits.unsqueeze(0)).item<std::int64_t>();
    EXPECT_TRUE(std::isnan(LogitStats::logit_of(key)));
    const auto result = stats_of(stats, logits);
    EXPECT_EQ(result.token, -1);
    EXPECT_EQ(result.top_ids, (std::vector<std::int32_t>{1, 2}));
    EXPECT_TRUE(std::isnan(result.top_logits[0]));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Dtypes, NanOfAHead,
    testing::Values(NanBits{at::kFloat, at::kInt, 0x7fc00000, 0xffc00000 - 0x100000000},
                    NanBits{at::kBFloat16, at::kShort, 0x7fc0, 0xffc0 - 0x10000},
                    NanBits{at::kHalf, at::kShort, 0x7e00, 0xfe00 - 0x10000}));

TEST(LogitStats, InfinityYieldsNoToken) {
  const LogitStats stats(3, 2, {}, at::kCPU);
  EXPECT_EQ(stats_of(stats, row({1, std::numeric_limits<float>::infinity(), 2})).token, -1);
}

TEST(LogitStats, MaskedVocabularyEntriesAreNoNan) {
  const LogitStats stats(3, 3, {}, at::kCPU);
  EXPECT_EQ(stats_of(stats, row({1, -std::numeric_limits<float>::infinity(), 2})).token, 2);
}

TEST(LogitStats, DigestSeesOneBitAndThePlace) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const LogitStats stats(4, 1, {}, at::kCPU);
    const auto digest = [&](std::vector<float> values) {
      return stats_of(stats, row(std::move(values)).to(dtype)).logits_digest;
    };
    EXPECT_EQ(digest({1, 2, 3, 4}), digest({1, 2, 3, 4}));
    EXPECT_NE(digest({1, 2, 3, 4}), digest({2, 1, 3, 4}));
    EXPECT_NE(digest({1, 2, 3, 0.0F}), digest({1, 2, 3, -0.0F}));
  }
}

// Computed by hand from the definition in docs/format.md.
TEST(LogitStats, DigestFollowsTheFormatPage) {
  const LogitStats stats(2, 1, {}, at::kCPU);
  const std::uint64_t w0 = 0xe220a8397b1dcdafULL | 1U;  // splitmix64 of seed 0, first two outputs
  const std::uint64_t w1 = 0x6e789e6aa1b965f4ULL | 1U;
  EXPECT_EQ(stats_of(stats, row({1.0F, -2.0F})).logits_digest,
            0x3f800000ULL * w0 + 0xc0000000ULL * w1);
  EXPECT_EQ(stats_of(stats, row({1.0F, -2.0F}).to(at::kBFloat16)).logits_digest,
            0x3f80ULL * w0 + 0xc000ULL * w1);
}

TEST(LogitStats, GreedyKeysAgreeWithTopK) {
  at::manual_seed(3);
  const LogitStats stats(1000, 5, {}, at::kCPU);
  const at::Tensor logits = at::randn({7, 1000}).mul(2).to(at::kBFloat16);
  const at::Tensor keys = stats.greedy_keys(logits);
  const at::Tensor packed = stats.pack(logits, {});
  EXPECT_TRUE(keys.equal(packed.select(1, 0)));
}

// Values with many ties, one row with NaN, in each dtype of a head.
at::Tensor hard_rows(at::ScalarType dtype) {
  at::manual_seed(3);
  at::Tensor logits = at::randn({5, 3001}).mul_(4).to(dtype);
  logits[1][7] = std::numeric_limits<float>::quiet_NaN();
  logits[4][0] = -std::numeric_limits<float>::quiet_NaN();
  logits[2][3000] = std::numeric_limits<float>::infinity();
  logits[3].fill_(-std::numeric_limits<float>::infinity());
  return logits;
}

constexpr std::array kHeadDtypes{at::kFloat, at::kBFloat16, at::kHalf};

TEST(LogitStats, TheCpusPassesAgreeWithTensorOperations) {
  for (const at::ScalarType dtype : kHeadDtypes) {
    const at::Tensor logits = hard_rows(dtype);
    for (const std::int64_t top_k : {1, 32, 3001}) {
      const LogitStats stats(3001, top_k, {}, at::kCPU);
      const at::Tensor packed = stats.pack(logits, {});
      const at::Tensor expected = stats.pack_with_tensors(logits, {});
      EXPECT_TRUE(at::equal(packed.narrow(1, 0, top_k), expected.narrow(1, 0, top_k)));
      EXPECT_TRUE(at::equal(packed.select(1, top_k + 1), expected.select(1, top_k + 1)));
      const at::Tensor logsumexp = packed.select(1, top_k).contiguous().view(at::kDouble);
      const at::Tensor wanted = expected.select(1, top_k).contiguous().view(at::kDouble);
      EXPECT_TRUE(at::allclose(logsumexp, wanted, 1e-7, 0.0, /*equal_nan=*/true));
      EXPECT_TRUE(at::equal(stats.greedy_keys(logits), expected.select(1, 0)));
    }
  }
}

std::vector<float> read_directly(const at::Tensor& logits, const at::Tensor& ids) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    values.push_back(logits[ids[i].item<std::int64_t>()].item<float>());
  }
  return values;
}

// Three of the reference's and two of the sample in six columns.
TEST(LogitStats, BothPathsGatherWhatStandsAtTheIds) {
  const LogitStats stats(3001, 4, {.at_reference_top = 3, .sample = 2}, at::kCPU);
  EXPECT_EQ(stats.packed_width(), 4 + 2 + 3);
  const at::Tensor of_rows = at::randint(3001, {5, 6}, at::kLong);
  of_rows[1][0] = 7;  // NaN
  of_rows[4][4] = 0;  // NaN
  of_rows[2][3] = 3000;
  for (const at::ScalarType dtype : kHeadDtypes) {
    const at::Tensor logits = hard_rows(dtype);
    for (const at::Tensor& ids : {of_rows, of_rows.narrow(0, 1, 1)}) {
      const at::Tensor by_reading = stats.pack(logits, ids);
      const at::Tensor by_tensors = stats.pack_with_tensors(logits, ids).contiguous();
      for (const at::Tensor& packed : {by_reading, by_tensors}) {
        for (std::int64_t row = 0; row < 5; ++row) {
          const at::Tensor ids_of_row = ids[ids.size(0) == 1 ? 0 : row];
          const format::StepStats result = unpacked(stats, packed[row]);
          EXPECT_THAT(result.at_reference_top,
                      Pointwise(NanSensitiveFloatEq(),
                                read_directly(logits[row], ids_of_row.narrow(0, 0, 3))));
          EXPECT_THAT(result.sampled_logits,
                      Pointwise(NanSensitiveFloatEq(),
                                read_directly(logits[row], ids_of_row.narrow(0, 3, 2))));
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvtool::engine
