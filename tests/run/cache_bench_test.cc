// What a measurement of a KV cache computes: theory, bytes, and who chose another token.
#include "kvtool/run/cache_bench.h"

#include <gtest/gtest.h>

#include <set>

#include "kvtool/cache/cache_plan.h"
#include "run/cache_bench/compare_sides.h"
#include "support/fake_engine.h"

namespace kvtool::run {
namespace {

format::Geometry geometry(std::size_t layers, std::uint32_t heads, std::uint32_t dim,
                          DType dtype = DType::kFloat32) {
  return format::Geometry(std::vector<format::LayerGeometry>(
      layers, format::LayerGeometry{dtype, dtype, heads, dim, dim}));
}

// GPT-2: 12 layers, 12 heads, 1024 positions, 64 dims, float32.
TEST(CacheBenchFormula, GivesTheBytesOfGpt2) {
  const format::Geometry gpt2 = geometry(12, 12, 64);
  const cache::CachePlan plan =
      cache::plan_cache(gpt2, {.positions = 1024, .prompt = 1009}, cache::CacheSpec());
  EXPECT_EQ(plan.physical_bytes(), 75'497'472U);  // 75.5 MB
  EXPECT_EQ(plan.physical_bytes(), 12U * 12 * 1024 * 64 * 2 * 4);
  EXPECT_EQ(position_formula(gpt2), "12 layers x 12 K/V heads x 64 numbers x 2 (K, V) x 4 bytes");
}

TEST(CacheBenchFormula, CountsTheHeadsThatShareQueries) {
  const format::Geometry smollm2 = geometry(30, 3, 64, DType::kBFloat16);
  EXPECT_EQ(position_formula(smollm2), "30 layers x 3 K/V heads x 64 numbers x 2 (K, V) x 2 bytes");
  EXPECT_EQ(smollm2.position_bytes(), 30U * 3 * 64 * 2 * 2);
}

TEST(CacheBenchFormula, IsASumWhereLayersDiffer) {
  std::vector<format::LayerGeometry> layers(2, {DType::kFloat32, DType::kFloat32, 2, 4, 4});
  layers[1].num_kv_heads = 1;
  EXPECT_EQ(position_formula(format::Geometry(layers)),
            "the sum over 2 layers of heads x (key dim x size + value dim x size)");
}

// One pass each of 1, 2, ... N tokens, against one pass of one token each.
TEST(CacheBenchTheory, IsNTimesNPlusOneHalvesAgainstN) {
  for (const std::uint64_t n : {1U, 2U, 64U, 1024U}) {
    std::uint64_t sum = 0;
    for (std::uint64_t i = 1; i <= n; ++i) sum += i;
    EXPECT_EQ(tokens_without_cache(1, n), sum);
    EXPECT_EQ(tokens_without_cache(1, n), n * (n + 1) / 2);
    EXPECT_EQ(tokens_with_cache(1, n), n);
  }
  // Three tokens after ten: 10 + 11 + 12 against 10 + 1 + 1.
  EXPECT_EQ(tokens_without_cache(10, 3), 33U);
  EXPECT_EQ(tokens_with_cache(10, 3), 12U);
}

TEST(CacheBenchPrompt, IsMadeOfManyIdsOfTheVocabulary) {
  const std::vector<std::int32_t> ids = ruled_ids(1000, 50257);
  ASSERT_EQ(ids.size(), 1000U);
  EXPECT_EQ(std::set<std::int32_t>(ids.begin(), ids.end()).size(), 1000U);
  for (const std::int32_t id : ids) EXPECT_TRUE(id >= 0 && id < 50257);
  for (const std::int32_t id : ruled_ids(10, 1)) EXPECT_EQ(id, 0);
}

TEST(CacheBenchLength, ComparesMedians) {
  CacheBenchLength length;
  length.positions = 1024;
  length.with_cache.following_ms = {2, 1, 30};
  length.without_cache.following_ms = {20, 21, 19, 400};
  length.with_cache.total_ms = {10};
  length.without_cache.total_ms = {50};
  EXPECT_EQ(length.following_speedup(), 10.0);
  EXPECT_EQ(length.total_speedup(), 5.0);
  EXPECT_EQ(length.whole_ratio(), 512.5);
}

CacheBenchResult result_of(const std::string& verdict, bool float32, std::uint64_t applied_rows) {
  CacheBenchResult result;
  result.float32 = float32;
  CacheBenchLength& length = result.lengths.emplace_back();
  length.use.applied_rows = applied_rows;
  if (!verdict.empty()) {
    length.difference.emplace();
    length.difference->verdict = verdict;
  }
  return result;
}

TEST(CacheBenchVerdict, Float32NeedsEqualTokens) {
  EXPECT_TRUE(result_of("", true, 0).passed());
  EXPECT_FALSE(result_of("tie", true, 0).passed());
}

TEST(CacheBenchVerdict, SixteenBitsFailOnlyByWhatNoiseDoesNotExplain) {
  EXPECT_TRUE(result_of("noise", false, 0).passed());
  EXPECT_FALSE(result_of("hard_flip", false, 0).passed());
}

TEST(CacheBenchVerdict, ACacheThatChangesRowsMayChangeTokens) {
  EXPECT_TRUE(result_of("hard_flip", true, 7).passed());
}

TEST(CacheBenchVerdict, BytesMustBeThePlannedOnes) {
  CacheBenchResult result = result_of("", true, 0);
  result.lengths[0].planned_bytes = 1;
  EXPECT_FALSE(result.passed());
}

class FirstDifference : public testing::Test {
 protected:
  // Logits 10, 9.5, ... of ids 0, 1, ...; a sample of ten more.
  static format::StepStats stats() {
    format::StepStats stats;
    for (int i = 0; i < 20; ++i) {
      stats.top_ids.push_back(i);
      stats.top_logits.push_back(10.0F - 0.5F * static_cast<float>(i));
    }
    stats.token = 0;
    stats.logsumexp = 11.0;
    stats.sampled_logits.assign(10, 1.0F);
    for (std::size_t i = 0; i < 10; ++i) stats.sampled_logits[i] -= static_cast<float>(i);
    return stats;
  }
  // The second one first, and every logit moved by up to `noise`.
  static format::StepStats flipped(float noise) {
    format::StepStats other = stats();
    for (std::size_t i = 0; i < other.top_logits.size(); ++i) {
      other.top_logits[i] += i % 2 == 0 ? -noise : noise;
    }
    std::swap(other.top_ids[0], other.top_ids[1]);
    std::swap(other.top_logits[0], other.top_logits[1]);
    other.token = 1;
    return other;
  }
  std::optional<TokenDifference> find(const format::StepStats& second) {
    return first_difference({stats(), stats(), stats()}, {stats(), second, stats()}, *model_);
  }

  FakeEngineState state_;
  std::unique_ptr<engine::Model> model_ = make_fake_engine(state_)->load_model("models/tiny.pt");
};

TEST_F(FirstDifference, IsNoneOfEqualTokens) { EXPECT_FALSE(find(stats()).has_value()); }

TEST_F(FirstDifference, NamesTokenAndGap) {
  const std::optional<TokenDifference> difference = find(flipped(0.3F));
  ASSERT_TRUE(difference.has_value());
  EXPECT_EQ(difference->index, 1U);
  EXPECT_EQ(difference->with_cache, 0);
  EXPECT_EQ(difference->without_cache, 1);
  EXPECT_EQ(difference->with_text, " t0");
  EXPECT_DOUBLE_EQ(difference->gap, 0.5);
}

// The reference logits are 0.5 apart: where all logits moved by 0.3, noise explains it, where one
// alone moved nothing does.
TEST_F(FirstDifference, IsExplainedByWhatTheOtherLogitsDo) {
  EXPECT_EQ(find(flipped(0.3F))->verdict, "noise");
  format::StepStats sudden = stats();
  std::swap(sudden.top_ids[0], sudden.top_ids[1]);
  sudden.top_logits[0] = 10.5F;  // of id 1, which was 9.5; all others stay
  sudden.top_logits[1] = 10.0F;
  sudden.token = 1;
  EXPECT_EQ(find(sudden)->verdict, "hard_flip");
}

}  // namespace
}  // namespace kvtool::run
