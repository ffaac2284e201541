// What the model expects of given tokens, against log_softmax of one pass over the whole text.
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "engine/batch_shape.h"
#include "engine/cache/policies.h"
#include "engine/forward_pass.h"
#include "engine/toy_run.h"
#include "kvtool/base/error.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

const std::vector<std::int32_t> kLongText{4, 5, 6, 7, 8, 1, 0, 15, 3, 3, 9, 2};
const std::vector<std::int32_t> kShortText{1, 2, 3, 11, 12};

// f64 [tokens - 1, vocab]: log probabilities of what follows each token but the last.
at::Tensor one_pass(TorchModel& model, const std::vector<std::int32_t>& text) {
  const c10::InferenceMode guard;
  const auto length = static_cast<std::int64_t>(text.size());
  const BatchShape shape({text}, length, length);
  const auto cache = cache_maker({})(model.layout, shape, at::kCPU);
  cache->begin({0, length});
  const at::Tensor logits =
      run_forward(*model.module, *cache, "the whole text", shape.input_ids(at::kCPU),
                  shape.position_ids(at::kCPU), at::arange(length - 1));
  cache->end();
  return at::log_softmax(logits[0].to(at::kDouble), -1);
}

void expect_scores(const ScoredText& scored, TorchModel& model,
                   const std::vector<std::int32_t>& text, std::size_t prompt) {
  const at::Tensor expected = one_pass(model, text);
  const at::Tensor choices = expected.argmax(-1);
  ASSERT_EQ(scored.tokens.size(), text.size() - prompt);
  for (std::size_t i = 0; i < scored.tokens.size(); ++i) {
    const auto before = static_cast<std::int64_t>(prompt + i - 1);
    const std::int32_t token = text[prompt + i];
    EXPECT_NEAR(scored.tokens[i].log_probability, expected[before][token].item<double>(), 1e-5)
        << i;
    EXPECT_EQ(scored.tokens[i].is_greedy, choices[before].item<std::int64_t>() == token) << i;
  }
}

TEST(Score, EveryTokenHasTheProbabilityOfOnePassOverTheText) {
  for (const std::uint64_t prompt : {1U, 4U, 11U}) {
    TorchModel model = toy_model();
    const ScoreResult result = score(model, std::vector<ScoreInput>{{kLongText, prompt}}, {}, {});
    ASSERT_EQ(result.texts.size(), 1U);
    expect_scores(result.texts[0], model, kLongText, prompt);
    EXPECT_EQ(result.timing.decode_steps, kLongText.size() - prompt - 1);
  }
}

TEST(Score, TextsOfABatchMayDifferInPromptAndLength) {
  TorchModel model = toy_model();
  const std::vector<ScoreInput> inputs{{kShortText, 3}, {kLongText, 5}, {kShortText, 1}};
  const ScoreResult result = score(model, inputs, {}, {});
  ASSERT_EQ(result.texts.size(), 3U);
  expect_scores(result.texts[0], model, kShortText, 3);
  expect_scores(result.texts[1], model, kLongText, 5);
  expect_scores(result.texts[2], model, kShortText, 1);
}

TEST(Score, FeedsTheTextAndNotTheChoices) {
  TorchModel model = toy_model();
  std::ignore = score(model, std::vector<ScoreInput>{{kShortText, 2}}, {}, {});
  const std::vector<at::Tensor>& fed = module_of(model).fed;
  ASSERT_EQ(fed.size(), 3U);  // the last token is scored alone
  EXPECT_EQ(fed[0].sizes(), at::IntArrayRef({1, 2}));
  EXPECT_EQ(fed[1].item<std::int64_t>(), 3);
  EXPECT_EQ(fed[2].item<std::int64_t>(), 11);
}

// Its own choices are greedy, each of them.
TEST(Score, WhatTheModelGeneratesIsGreedy) {
  TorchModel model = toy_model();
  const GenerateResult generated = generate(model, std::vector<Input>{{{1, 2, 3}}},
                                            {.max_new_tokens = 9, .ignore_eos = true}, {}, {});
  std::vector<std::int32_t> text{1, 2, 3};
  for (const std::int32_t token : generated.rows[0].tokens) text.push_back(token);
  const ScoreResult result = score(model, std::vector<ScoreInput>{{text, 3}}, {}, {});
  ASSERT_EQ(result.texts[0].tokens.size(), 9U);
  for (const TokenScore& token : result.texts[0].tokens) EXPECT_TRUE(token.is_greedy);
}

TEST(Score, ReadsThroughTheCacheThatIsAskedFor) {
  TorchModel model = toy_model();
  const ScoreOptions window{cache::CacheSpec::parse("window:sinks=0,recent=2")};
  const ScoreResult result = score(model, std::vector<ScoreInput>{{kLongText, 1}}, window, {});
  TorchModel plain = toy_model();
  const ScoreResult full = score(plain, std::vector<ScoreInput>{{kLongText, 1}}, {}, {});
  const auto log_probability = [](const ScoreResult& of, std::size_t at) {
    return of.texts[0].tokens[at].log_probability;
  };
  EXPECT_EQ(log_probability(result, 1), log_probability(full, 1));
  EXPECT_NE(log_probability(result, 5), log_probability(full, 5));
  EXPECT_LT(result.cache_use.seen_keys, result.cache_use.visible_keys);
}

TEST(Score, ATokenWithoutAFiniteChoiceHasNoProbability) {
  TorchModel model = toy_model();
  module_of(model).nan_at_pass = 2;
  const ScoreResult result = score(model, std::vector<ScoreInput>{{kShortText, 1}}, {}, {});
  const std::vector<TokenScore>& tokens = result.texts[0].tokens;
  EXPECT_TRUE(std::isfinite(tokens[1].log_probability));
  EXPECT_TRUE(std::isnan(tokens[2].log_probability));
  EXPECT_FALSE(tokens[2].is_greedy);
}

TEST(Score, TellsProgressAfterThePromptsAndEveryStep) {
  TorchModel model = toy_model();
  std::vector<std::uint64_t> done;
  std::ignore = score(model, std::vector<ScoreInput>{{kShortText, 2}}, {},
                      [&](std::uint64_t steps, std::uint64_t total) {
                        done.push_back(steps);
                        EXPECT_EQ(total, 2U);
                      });
  EXPECT_EQ(done, (std::vector<std::uint64_t>{0, 1, 2}));
}

TEST(Score, RefusesATextBeyondTheModelsPositions) {
  TorchModel model = toy_model();  // of 64
  const std::vector<std::int32_t> fits(65, 1);
  EXPECT_EQ(score(model, std::vector<ScoreInput>{{fits, 1}}, {}, {}).texts[0].tokens.size(), 64U);
  const std::vector<std::int32_t> too_long(66, 1);
  const Error error =
      error_of([&] { std::ignore = score(model, std::vector<ScoreInput>{{too_long, 1}}, {}, {}); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_STREQ(error.what(),
               "to score a text of 66 tokens takes 65 positions, the model takes 64: shorten the "
               "text");
}

TEST(Score, RefusesATextWithoutATokenAfterItsPrompt) {
  TorchModel model = toy_model();
  for (const std::uint64_t prompt : {0U, 5U, 6U}) {
    EXPECT_EQ(error_of([&] {
                std::ignore = score(model, std::vector<ScoreInput>{{kShortText, prompt}}, {}, {});
              }).code(),
              ErrorCode::kMisuse);
  }
  EXPECT_EQ(error_of([&] { std::ignore = score(model, {}, {}, {}); }).code(), ErrorCode::kMisuse);
}

}  // namespace
}  // namespace kvtool::engine
