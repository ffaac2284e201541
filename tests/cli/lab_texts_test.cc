// lab --perplexity and --needles with the fake engine. Its encoder makes a token of each byte.
#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "save_replay_fixture.h"

namespace kvtool::cli {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kTextPages = "page=2,sinks=0,recent=1,dense=0";

class LabTexts : public SaveReplay {
 protected:
  void SetUp() override {
    SaveReplay::SetUp();
    engine_.max_positions = 2048;
    write_prompts(2);
    ASSERT_EQ(run(std::string(kSave) + "--batch-size 2 --out ref_cache").status, 0);
    std::string text;
    for (int i = 0; i < 50; ++i) text += static_cast<char>('A' + i % 26);
    write("book.txt", text);
  }

  json lab(const std::string& words, int status = 0) {
    const CommandResult result = run("lab --from CPU --json - " + words);
    EXPECT_EQ(result.status, status) << result.err;
    return json::parse(result.out).at("labs").at(0);
  }

  static json row(const json& table, const std::string& name) {
    for (const json& row : table.at("rows")) {
      if (row.at("name") == name) return row;
    }
    ADD_FAILURE() << "no row " << name;
    return {};
  }

  void expect_usage_error(const std::string& words, const std::string& message) {
    const CommandResult result = run("lab --from CPU --policy int8 " + words);
    EXPECT_EQ(result.status, 2) << words << result.err;
    EXPECT_THAT(result.err, HasSubstr(message)) << words;
  }
};

// A token in two costs 0.2 more under int8: the increase is exp(0.1) - 1.
TEST_F(LabTexts, PerplexityIsOfTheTokensBehindThePrefix) {
  engine_.score_perturb = [](const cache::CacheSpec& kv_cache, std::uint64_t index,
                             engine::TokenScore& score) {
    if (kv_cache.policy() == "int8" && index % 2 == 0) score.log_probability -= 0.2;
  };
  const json result = lab("--policy int8 --perplexity --text book.txt --context 16 --prefix 4");
  ASSERT_EQ(result.at("perplexity").size(), 1U);
  const json& table = result.at("perplexity")[0];
  EXPECT_EQ(table.at("text"), "book.txt");
  EXPECT_EQ(table.at("windows"), 3);  // of 50 tokens, two are left
  EXPECT_EQ(table.at("scored_tokens"), 36);
  EXPECT_EQ(table.at("prompt_tokens"), 12);
  EXPECT_EQ(row(table, "full").at("increase"), nullptr);
  EXPECT_EQ(row(table, "noise").at("increase"), 0.0);
  EXPECT_NEAR(row(table, "int8").at("increase").get<double>(), std::exp(0.1) - 1.0, 1e-9);
  EXPECT_TRUE(row(table, "int8").at("acted"));
  // Once by full and int8, and the noise in batches of one.
  std::vector<std::size_t> batches;
  for (const auto& batch : engine_.scored_batches) batches.push_back(batch.size());
  EXPECT_THAT(batches, ElementsAre(3, 1, 1, 1, 3));
  EXPECT_EQ(engine_.scored_batches[0][1].token_ids[0], ('A' + 16) % 64);
  EXPECT_EQ(engine_.scored_batches[0][1].prompt_length, 4U);
}

TEST_F(LabTexts, ABudgetIsAShareOfTheContext) {
  const json result = lab(std::string("--policy quest:") + kTextPages +
                          " --budget 50 --perplexity --text book.txt --context 16,32");
  ASSERT_EQ(result.at("perplexity").size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    const json& table = result.at("perplexity")[i];
    EXPECT_EQ(table.at("context"), i == 0 ? 16 : 32);
    EXPECT_THAT(row(table, "window 50%").at("spec").get<std::string>(),
                HasSubstr(i == 0 ? "sinks=4,recent=4" : "sinks=4,recent=12"));
    EXPECT_EQ(table.at("rows").size(), 6U);
  }
}

TEST_F(LabTexts, WithoutATextTheRecordedPromptsAreRead) {
  const json result = lab("--policy int8 --perplexity");
  const json& table = result.at("perplexity")[0];
  EXPECT_EQ(table.at("text"), "the recorded prompts");
  EXPECT_EQ(table.at("windows"), 2);
}

TEST_F(LabTexts, NeedlesSayWhatEachCacheRecalls) {
  engine_.score_perturb = [](const cache::CacheSpec& kv_cache, std::uint64_t /*index*/,
                             engine::TokenScore& score) {
    score.is_greedy = kv_cache.policy() != "int8";
  };
  const json result = lab("--policy int8 --needles --context 1500,1000 --needle-texts 2");
  ASSERT_EQ(result.at("needles").size(), 2U);
  const json& table = result.at("needles")[0];
  EXPECT_EQ(table.at("context"), 1000);
  EXPECT_EQ(table.at("texts"), 2);
  EXPECT_EQ(row(table, "full").at("recall"), 1.0);
  EXPECT_EQ(row(table, "int8").at("recall"), 0.0);
  EXPECT_EQ(row(table, "int8").at("asked"), 18);
  EXPECT_EQ(row(table, "int8").at("full_recalls"), 18);
  EXPECT_EQ(row(table, "int8").at("depths").size(), 9U);
  EXPECT_FALSE(result.contains("perplexity"));
}

TEST_F(LabTexts, StandInEveryReport) {
  const std::string words =
      "lab --from CPU --policy int8 --perplexity --needles --text book.txt --context 50,1000 "
      "--windows 1 --html lab.html --markdown lab.md";
  // Needles do not fit 50 tokens.
  EXPECT_EQ(run(words).status, 2);
  const CommandResult result =
      run("lab --from CPU --policy int8 --perplexity --needles --context 1000 "
          "--html lab.html --markdown lab.md");
  ASSERT_EQ(result.status, 0) << result.err;
  for (const std::string& shown : {result.out, read("lab.html"), read("lab.md")}) {
    EXPECT_THAT(shown, HasSubstr("Perplexity at "));
    EXPECT_THAT(shown, HasSubstr("Needles in 1000 tokens"));
    EXPECT_THAT(shown, HasSubstr("Recalled by depth in 1000 tokens"));
  }
}

TEST_F(LabTexts, NeedNoPolicy) {
  const json result = lab("--perplexity --rows none");
  EXPECT_EQ(result.at("perplexity")[0].at("rows").size(), 1U);
}

TEST_F(LabTexts, TypicalMistakesSayWhatToDo) {
  expect_usage_error("--text book.txt", "--text is of --perplexity and --needles: name that too");
  expect_usage_error("--context 16", "--context is of --perplexity and --needles");
  expect_usage_error("--needles --prefix 3", "--prefix is of --perplexity");
  expect_usage_error("--needles --windows 3", "--windows is of --perplexity");
  expect_usage_error("--perplexity --needle-texts 3", "--needle-texts is of --needles");
  expect_usage_error("--perplexity --text book.txt --context 16 --prefix 16",
                     "--prefix 16 leaves no token to score of --context 16");
  expect_usage_error("--perplexity --text book.txt --context 51",
                     "book.txt: the text has only 50 tokens of this model");
  expect_usage_error("--perplexity --context 4096", "--context 4096");
  expect_usage_error("--needles --context 100", "--context 100: 9 needles and their questions");
  // Nothing ran before.
  EXPECT_TRUE(engine_.scored_batches.empty());
  EXPECT_TRUE(engine_.replayed_batches.empty());
}

}  // namespace
}  // namespace kvtool::cli
