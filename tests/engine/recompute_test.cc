// Generation without a cache, against the one with it.
#include <gtest/gtest.h>

#include <tuple>

#include "engine/toy_run.h"
#include "kvtool/base/error.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

const std::vector<Input> kPrompts{{{1, 2, 3}}, {{4, 5, 6, 7, 8}}};

// Keeps statistics alone.
class StatsRow : public MemoryRow {
 public:
  [[nodiscard]] Needs needs() const override {
    return {.prefill_kv = false, .step_kv = false, .final_kv = false};
  }
};

GenerateResult generate_toy(const GenerateOptions& options,
                            std::span<format::RowSink* const> sinks = {}) {
  TorchModel model = toy_model();
  return generate(model, kPrompts, options, sinks, {});
}

TEST(Recompute, ChoosesTheTokensOfTheCache) {
  const GenerateOptions cached{.max_new_tokens = 9, .ignore_eos = true};
  GenerateOptions recomputed = cached;
  recomputed.recompute = true;
  const GenerateResult with_cache = generate_toy(cached);
  const GenerateResult without_cache = generate_toy(recomputed);
  ASSERT_EQ(without_cache.rows.size(), 2U);
  for (std::size_t row = 0; row < 2; ++row) {
    EXPECT_EQ(without_cache.rows[row].tokens, with_cache.rows[row].tokens);
    EXPECT_EQ(without_cache.rows[row].tokens.size(), 9U);
  }
  EXPECT_EQ(without_cache.timing.decode_steps, 8U);
}

TEST(Recompute, FeedsAllTokensSoFarAtEveryStep) {
  TorchModel model = toy_model();
  const GenerateResult result = generate(
      model, kPrompts, {.max_new_tokens = 4, .ignore_eos = true, .recompute = true}, {}, {});
  const std::vector<at::Tensor>& fed = module_of(model).fed;
  ASSERT_EQ(fed.size(), 4U);
  for (std::size_t pass = 0; pass < fed.size(); ++pass) {
    EXPECT_EQ(fed[pass].size(1), static_cast<std::int64_t>(5 + pass));
  }
  std::vector<std::int64_t> last(fed.back()[1].const_data_ptr<std::int64_t>(),
                                 fed.back()[1].const_data_ptr<std::int64_t>() + 8);
  std::vector<std::int64_t> expected{4, 5, 6, 7, 8};
  for (std::size_t i = 0; i < 3; ++i) expected.push_back(result.rows[1].tokens[i]);
  EXPECT_EQ(last, expected);
}

TEST(Recompute, KeepsNoKv) {
  const GenerateResult result =
      generate_toy({.max_new_tokens = 3, .ignore_eos = true, .recompute = true});
  EXPECT_EQ(result.cache_use, cache::CacheUse());
}

TEST(Recompute, ItsSinksGetTheStatisticsOfTheCache) {
  StatsRow rows[2][2];
  for (const bool recompute : {false, true}) {
    std::vector<format::RowSink*> sinks{&rows[recompute][0], &rows[recompute][1]};
    std::ignore = generate_toy({.max_new_tokens = 5,
                                .ignore_eos = true,
                                .top_k = 4,
                                .logits_sample = 5,
                                .recompute = recompute},
                               sinks);
  }
  for (std::size_t row = 0; row < 2; ++row) {
    const MemoryRow& cached = rows[0][row];
    const MemoryRow& recomputed = rows[1][row];
    EXPECT_EQ(recomputed.prefill_stats().top_ids, cached.prefill_stats().top_ids);
    ASSERT_EQ(recomputed.num_steps(), 4U);
    for (std::uint64_t step = 0; step < 4; ++step) {
      const format::StepStats a = cached.read_step(step, {});
      const format::StepStats b = recomputed.read_step(step, {});
      EXPECT_EQ(b.input_token, a.input_token);
      EXPECT_EQ(b.top_ids, a.top_ids);
      ASSERT_EQ(b.sampled_logits.size(), a.sampled_logits.size());
      for (std::size_t i = 0; i < a.sampled_logits.size(); ++i) {
        EXPECT_NEAR(b.sampled_logits[i], a.sampled_logits[i], 1e-4);
      }
    }
  }
}

TEST(Recompute, RefusesASinkThatWantsKv) {
  MemoryRow row;
  std::vector<format::RowSink*> sinks{&row, nullptr};
  const Error error = error_of(
      [&] { std::ignore = generate_toy({.max_new_tokens = 2, .recompute = true}, sinks); });
  EXPECT_EQ(error.code(), ErrorCode::kMisuse);
}

TEST(Recompute, NamesALogitThatIsNotFinite) {
  TorchModel model = toy_model();
  module_of(model).nan_at_pass = 2;
  const Error error = error_of([&] {
    std::ignore = generate(model, kPrompts,
                           {.max_new_tokens = 4, .ignore_eos = true, .recompute = true}, {}, {});
  });
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_NE(error.message().find("the logits of step 1"), std::string::npos);
}

}  // namespace
}  // namespace kvtool::engine
