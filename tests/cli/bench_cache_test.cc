// bench cache with the fake engine: what is measured, and what is refused.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "cli_fixture.h"

namespace kvtool::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class BenchCache : public CommandTest {
 protected:
  json bench(const std::string& words, int status = 0) {
    const CommandResult result = run("bench cache --model models/tiny.pt " + words + " --json -");
    EXPECT_EQ(result.status, status) << result.err;
    return json::parse(result.out).at("cache_benches").at(0);
  }
  void expect_usage_error(const std::string& words, const std::string& message) {
    const CommandResult result = run("bench cache " + words);
    EXPECT_EQ(result.status, 2) << words;
    EXPECT_THAT(result.err, HasSubstr(message)) << words;
  }
};

TEST_F(BenchCache, RunsBothSidesInTurnOnTheSamePrompts) {
  const json result = bench("--context 8,16 --max-new-tokens 4 --repeats 2");
  ASSERT_EQ(result.at("lengths").size(), 2U);
  const json length = result.at("lengths").at(1);
  EXPECT_EQ(length.at("context"), 16);
  EXPECT_EQ(length.at("positions"), 19);
  EXPECT_EQ(length.at("difference"), nullptr);
  for (const char* side : {"with_cache", "without_cache"}) {
    EXPECT_EQ(length.at(side).at("first_ms").at("values").size(), 2U);
    EXPECT_EQ(length.at(side).at("following_ms").at("values").size(), 6U);
    EXPECT_TRUE(length.at(side).at("repeatable"));
  }
  EXPECT_EQ(length.at("without_cache").at("tokens_passed"), 16 + 17 + 18 + 19);
  EXPECT_EQ(length.at("with_cache").at("tokens_passed"), 19);
  // Uncounted: with, without; then each repeat both, the other one first in every second.
  std::vector<bool> recomputed;
  for (const engine::GenerateOptions& options : engine_.generate_options) {
    recomputed.push_back(options.recompute);
    EXPECT_EQ(options.count_memory, recomputed.size() % 6 == 1 || recomputed.size() % 6 == 2);
    EXPECT_TRUE(options.ignore_eos);
  }
  const std::vector<bool> one = {false, true, false, true, true, false};
  std::vector<bool> both = one;
  both.insert(both.end(), one.begin(), one.end());
  EXPECT_EQ(recomputed, both);
}

TEST_F(BenchCache, TheDefaultContextsReachAsFarAsTheModel) {
  engine_.max_positions = 200;
  const json result = bench("--max-new-tokens 3 --repeats 1");
  std::vector<int> contexts;
  for (const json& length : result.at("lengths")) contexts.push_back(length.at("context"));
  EXPECT_EQ(contexts, (std::vector<int>{64, 128, 198}));
  EXPECT_THAT(result.at("notes").at(0), HasSubstr("Fake/tiny has 200 positions"));
}

TEST_F(BenchCache, ATokenThatDiffersInFloat32IsStatusOne) {
  // Of the runs without a cache, the third token.
  engine_.generate_perturb = [this](std::uint64_t index, format::StepStats& stats) {
    if (!engine_.generate_options.back().recompute || index != 2) return;
    std::swap(stats.top_ids[0], stats.top_ids[1]);
    stats.token = stats.top_ids[0];
  };
  const json result = bench("--context 8 --max-new-tokens 4 --repeats 1", 1);
  EXPECT_FALSE(result.at("passed"));
  EXPECT_EQ(result.at("lengths").at(0).at("difference").at("index"), 2);
  const CommandResult shown =
      run("bench cache --model models/tiny.pt --context 8 --max-new-tokens 4 --repeats 1");
  EXPECT_EQ(shown.status, 1);
  EXPECT_THAT(shown.out, HasSubstr("Context 8: token 2 is the first that differs"));
  EXPECT_THAT(shown.out, HasSubstr("Result: FAIL"));
}

TEST_F(BenchCache, TheTextIsCutToEachContext) {
  write("book.txt", "Call me Ishmael.");
  const json result = bench("--text book.txt --context 4,16 --max-new-tokens 2 --repeats 1");
  EXPECT_EQ(result.at("prompts"), "book.txt");
  EXPECT_EQ(result.at("lengths").at(1).at("context"), 16);
  EXPECT_EQ(encoder_requests_.size(), 1U);
}

TEST_F(BenchCache, WritesMarkdownAndAPageWithAPicture) {
  ASSERT_EQ(run("bench cache --model models/tiny.pt --context 8,16 --max-new-tokens 3 --repeats 1 "
                "--markdown r.md --html r.html")
                .status,
            0);
  EXPECT_THAT(read("r.md"), HasSubstr("| 16 |"));
  EXPECT_THAT(read("r.html"), HasSubstr("<svg viewBox"));
}

TEST_F(BenchCache, TypicalMistakesSayWhatToDo) {
  const std::string model = "--model models/tiny.pt ";
  expect_usage_error("", "kvtool bench cache needs --model");
  expect_usage_error(model + "--context 0", "--context");
  expect_usage_error(model + "--max-new-tokens 1", "--max-new-tokens");
  expect_usage_error(model + "--repeats 0", "--repeats");
  expect_usage_error(model + "--kv-cache int9", "int9");
  expect_usage_error(model + "--contexts 4",
                     "kvtool bench cache has no option --contexts; did you");
  expect_usage_error(model + "--context 250 --max-new-tokens 16",
                     "--context 250 and 16 new tokens need 265 positions, but Fake/tiny has 256: "
                     "use --context 241 at most");
  expect_usage_error(model + "--max-new-tokens 300", "Fake/tiny has 256 positions");
  expect_usage_error(model + "--text none.txt --context 4", "none.txt");
  write("short.txt", "abc");
  expect_usage_error(model + "--text short.txt --context 4", "the text has only 3 tokens");
  EXPECT_TRUE(engine_.loaded_models.empty());
  EXPECT_EQ(run("bench --repeats 3 cache " + model).status, 2);
}

TEST_F(BenchCache, TheHelpOfBenchNamesIt) {
  EXPECT_THAT(run("bench --help").out, HasSubstr("cache"));
  EXPECT_THAT(run("bench cache --help").out, HasSubstr("N(N+1)/2"));
}

TEST_F(BenchCache, StopsWhenInterrupted) {
  engine_.on_step = [](std::uint64_t, std::uint64_t) { interrupt_source().request_stop(); };
  EXPECT_EQ(run("bench cache --model models/tiny.pt --context 8").status, kInterruptedStatus);
}

}  // namespace
}  // namespace kvtool::cli
