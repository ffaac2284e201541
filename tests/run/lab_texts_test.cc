// Windows, perplexity and needles of a lab, without an engine.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <set>

#include "kvtool/base/error.h"
#include "run/lab/needles.h"
#include "run/lab/perplexity.h"
#include "run/lab/text_windows.h"
#include "support/error_of.h"

namespace kvtool::run {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;

// ---- Windows -----------------------------------------------------------------------

Tokens counting(std::int32_t count) {
  Tokens tokens;
  for (std::int32_t i = 0; i < count; ++i) tokens.push_back(i);
  return tokens;
}

LabTextRequest of_file() {
  LabTextRequest request;
  request.text = "book.txt";
  return request;
}

TEST(LabWindows, AreConsecutiveAndHalfIsNotScored) {
  const auto windows = windows_of({"book.txt", {counting(11)}}, 4, of_file());
  ASSERT_EQ(windows.size(), 2U);  // three tokens are left
  EXPECT_THAT(windows[0].token_ids, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(windows[1].token_ids, ElementsAre(4, 5, 6, 7));
  EXPECT_EQ(windows[0].prompt_length, 2U);
}

TEST(LabWindows, AreNoMoreThanAskedForAndHaveThePrefixThatIsAskedFor) {
  LabTextRequest request = of_file();
  request.windows = 2;
  request.prefix = 3;
  const auto windows = windows_of({"book.txt", {counting(100)}}, 4, request);
  ASSERT_EQ(windows.size(), 2U);
  EXPECT_EQ(windows[1].prompt_length, 3U);
}

TEST(LabWindows, ARecordedPromptThatIsShorterIsAWindow) {
  const auto windows =
      windows_of({"the recorded prompts", {counting(5), counting(1), counting(9)}}, 8, {});
  ASSERT_EQ(windows.size(), 2U);
  EXPECT_EQ(windows[0].token_ids.size(), 5U);
  EXPECT_EQ(windows[0].prompt_length, 2U);
  EXPECT_EQ(windows[1].token_ids.size(), 8U);
}

TEST(LabWindows, RefuseATextThatIsTooShort) {
  const Error error = error_of([] { (void)windows_of({"book.txt", {counting(7)}}, 8, of_file()); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_STREQ(error.what(),
               "book.txt: the text has only 7 tokens of this model: give a longer one, or context "
               "7 at most");
  EXPECT_THAT(error_of([] { (void)windows_of({"", {counting(1)}}, 8, {}); }).what(),
              HasSubstr("the longest of the recorded prompts has 1 token, too few"));
  LabTextRequest request = of_file();
  request.prefix = 8;
  EXPECT_THAT(error_of([&] { (void)windows_of({"book.txt", {counting(99)}}, 8, request); }).what(),
              HasSubstr("prefix 8 leaves no token to score of context 8"));
}

TEST(LabWindows, ContextsAreThoseOfTheModelsPositions) {
  engine::ModelInfo model;
  model.max_positions = 512;
  LabTextRequest request;
  EXPECT_THAT(lab_contexts(request, model), ElementsAre(512));
  request.contexts = {64, 32, 64};
  EXPECT_THAT(lab_contexts(request, model), ElementsAre(32, 64));
  for (const std::uint64_t context : {1U, 513U}) {
    request.contexts = {context};
    EXPECT_EQ(error_of([&] { (void)lab_contexts(request, model); }).code(), ErrorCode::kUsage);
  }
}

// ---- Perplexity --------------------------------------------------------------------

// Differences 0, 0.1 and 0.2: mean 0.1, standard error 0.1 / sqrt(3).
TEST(LabPerplexity, ItsIncreaseIsOfPairs) {
  const std::vector<double> full = {1.0, 2.0, 3.0};
  PerplexityRow row;
  take_perplexity(std::vector<double>{1.0, 2.1, 3.2}, full, row);
  EXPECT_EQ(row.tokens, 3U);
  EXPECT_THAT(row.perplexity, testing::Optional(DoubleNear(std::exp(2.1), 1e-12)));
  EXPECT_THAT(row.increase, testing::Optional(DoubleNear(std::exp(0.1) - 1.0, 1e-12)));
  EXPECT_THAT(row.increase_low,
              testing::Optional(DoubleNear(std::exp(0.1 - 0.1131586) - 1.0, 1e-6)));
  EXPECT_THAT(row.increase_high,
              testing::Optional(DoubleNear(std::exp(0.1 + 0.1131586) - 1.0, 1e-6)));
}

TEST(LabPerplexity, OfFullHasNoIncrease) {
  PerplexityRow row;
  take_perplexity(std::vector<double>{1.0, 3.0}, {}, row);
  EXPECT_THAT(row.perplexity, testing::Optional(DoubleNear(std::exp(2.0), 1e-12)));
  EXPECT_FALSE(row.increase);
}

TEST(LabPerplexity, IsNoneWhereATokenHasNoProbability) {
  PerplexityRow row;
  take_perplexity(std::vector<double>{1.0, std::numeric_limits<double>::quiet_NaN()},
                  std::vector<double>{1.0, 1.0}, row);
  EXPECT_EQ(row.nonfinite, 1U);
  EXPECT_FALSE(row.perplexity);
  EXPECT_FALSE(row.increase);
}

TEST(LabPerplexity, LossesAreThoseOfAllTexts) {
  const std::vector<engine::ScoredText> texts = {{{{-1.0, true}, {-2.0, false}}}, {{{-3.0, true}}}};
  EXPECT_THAT(losses_of(texts), ElementsAre(1.0, 2.0, 3.0));
}

// ---- Needles -----------------------------------------------------------------------

// A token for each byte, after a 1 that begins every text.
class Needles : public testing::Test {
 protected:
  Needles() {
    services_.encoder = [](const std::filesystem::path& /*model*/, std::string_view input) {
      nlohmann::json answer = {{"prompts", nlohmann::json::array()}};
      const auto request = nlohmann::json::parse(input);
      for (const auto& prompt : request["prompts"]) {
        nlohmann::json ids = {1};
        for (const char c : prompt["text"].get<std::string>()) ids.push_back(c);
        answer["prompts"].push_back({{"token_ids", ids}});
      }
      return ProcessResult{0, answer.dump(), ""};
    };
    request_.needle_texts = 2;
  }

  [[nodiscard]] std::vector<NeedleText> texts(std::uint64_t context) {
    return needle_texts(needle_parts(request_, {}, {}, services_), context);
  }

  static std::string words_of(const Tokens& tokens) { return {tokens.begin(), tokens.end()}; }

  LabTextRequest request_;
  Services services_;
};

TEST_F(Needles, StandInTheTextAndAreAskedForBehindIt) {
  const std::vector<NeedleText> made = texts(2000);
  ASSERT_EQ(made.size(), 2U);
  for (const NeedleText& text : made) {
    const Tokens& tokens = text.input.token_ids;
    EXPECT_EQ(tokens.size(), 2000U);
    EXPECT_EQ(tokens.front(), 1);
    EXPECT_EQ(std::ranges::count(tokens, 1), 1);
    const std::string words = words_of(tokens);
    const std::string read = words.substr(0, text.input.prompt_length);
    const std::string asked = words.substr(text.input.prompt_length);
    ASSERT_EQ(text.answers.size(), kNeedles);
    std::size_t before = 0;
    std::vector<std::size_t> places(kNeedles);
    for (const NeedleAnswer& answer : text.answers) {
      EXPECT_GT(answer.first, before);
      before = answer.first;
      const std::string number = asked.substr(answer.first, answer.count);
      EXPECT_EQ(number.size(), 6U);  // a blank and five digits
      const std::size_t line = asked.rfind('\n', answer.first) + 1;
      const std::string fact = asked.substr(line, answer.first + answer.count - line) + ".";
      EXPECT_THAT(fact, HasSubstr("The secret number of "));
      places[answer.needle] = read.find(fact);
      EXPECT_NE(places[answer.needle], std::string::npos) << fact;
    }
    // By depth, evenly, from begin to end.
    EXPECT_EQ(places.front(), 2U);
    for (std::size_t i = 1; i < kNeedles; ++i) {
      const auto gap = static_cast<double>(places[i] - places[i - 1]);
      EXPECT_NEAR(gap, static_cast<double>(places.back() - places.front()) / 8.0, 3.0);
    }
    EXPECT_THAT(read.substr(read.size() - 2), HasSubstr("."));
  }
  EXPECT_NE(made[0].input.token_ids, made[1].input.token_ids);
}

TEST_F(Needles, AreAskedForInAnotherOrderThanTheyStand) {
  std::vector<std::size_t> order;
  const std::vector<NeedleText> made = texts(2000);
  for (const NeedleAnswer& answer : made[0].answers) order.push_back(answer.needle);
  EXPECT_FALSE(std::ranges::is_sorted(order));
  EXPECT_EQ(std::set<std::size_t>(order.begin(), order.end()).size(), kNeedles);
}

TEST_F(Needles, LieBetweenTheTextThatIsGiven) {
  const LabText given{"book.txt", {{1, 'x', 'y'}}};
  const NeedleParts parts = needle_parts(request_, given, {}, services_);
  EXPECT_EQ(parts.filler, (Tokens{'x', 'y'}));
  EXPECT_EQ(parts.filler_name, "book.txt");
  EXPECT_THAT(words_of(needle_texts(parts, 2000)[0].input.token_ids), HasSubstr("xyxyxy"));
}

TEST_F(Needles, RefuseALengthThatDoesNotHoldThem) {
  const Error error = error_of([&] { (void)texts(100); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), HasSubstr("context 100: 9 needles and their questions take "));
}

// All tokens of a text are expected but those of two answers.
TEST_F(Needles, AreRecalledWhereEachTokenIsTheBest) {
  const std::vector<NeedleText> made = texts(2000);
  std::vector<engine::ScoredText> scores(2);
  for (std::size_t i = 0; i < 2; ++i) {
    const auto scored = made[i].input.token_ids.size() - made[i].input.prompt_length;
    scores[i].tokens.assign(scored, {-0.5, true});
  }
  const std::vector<bool> full = recalled_needles(made, scores);
  EXPECT_EQ(full, std::vector<bool>(18, true));
  const NeedleAnswer& wrong = made[1].answers[3];
  scores[1].tokens[wrong.first + wrong.count - 1] = {-4.5, false};
  scores[0].tokens[made[0].answers[0].first - 1].is_greedy = false;  // of the question
  NeedleRow row;
  take_needles(made, scores, full, row);
  EXPECT_EQ(row.asked, 18U);
  EXPECT_EQ(row.recalled, 17U);
  EXPECT_EQ(row.kept, 17U);
  EXPECT_EQ(row.full_recalls, 18U);
  EXPECT_DOUBLE_EQ(*row.recall, 17.0 / 18.0);
  EXPECT_NEAR(*row.recall_low, 0.7271, 1e-4);
  EXPECT_NEAR(*row.recall_high, 0.9986, 1e-4);
  EXPECT_NEAR(*row.log_probability, -(18 * 3.0 + 4.0) / 18.0, 1e-12);
  ASSERT_EQ(row.depths.size(), kNeedles);
  for (std::size_t i = 0; i < kNeedles; ++i) {
    EXPECT_EQ(row.depths[i].asked, 2U);
    EXPECT_EQ(row.depths[i].recalled, i == wrong.needle ? 1U : 2U);
    EXPECT_DOUBLE_EQ(row.depths[i].depth, static_cast<double>(i) / 8.0);
  }
}

}  // namespace
}  // namespace kvtool::run
