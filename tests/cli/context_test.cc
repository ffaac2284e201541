// Prompts of a given length: a text that is cut to so many tokens. The encoder of the fixture makes
// a token of each byte.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli_fixture.h"
#include "kvtool/format/reader.h"

namespace kvtool::cli {
namespace {

using format::Recording;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kSave =
    "save --model models/tiny.pt --max-new-tokens 3 --ignore-eos --out rec ";

class Context : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    write("book.txt", "Call me Ishmael.");
  }
  void expect_usage_error(const std::string& words, const std::string& message) {
    const CommandResult result = run("generate --model models/tiny.pt " + words);
    EXPECT_EQ(result.status, 2) << words;
    EXPECT_THAT(result.err, HasSubstr(message)) << words;
    EXPECT_TRUE(engine_.loaded_models.empty()) << words;
  }
};

TEST_F(Context, IsTheNumberOfTokensOfEachPrompt) {
  const CommandResult result = run(std::string(kSave) + "--text book.txt --context 4,16,1");
  ASSERT_EQ(result.status, 0) << result.err;
  const std::string text = "Call me Ishmael.";
  std::uint64_t input = 0;
  for (const std::size_t context : {4U, 16U, 1U}) {
    const Recording recording =
        Recording::open("rec/CPU/tiny/batch1_input" + std::to_string(input++) + ".kvc");
    ASSERT_EQ(recording.prompt().size(), context);
    for (std::size_t i = 0; i < context; ++i) EXPECT_EQ(recording.prompt()[i], text[i] % 64);
  }
}

TEST_F(Context, StandsInTheRecordingWithTheFile) {
  ASSERT_EQ(run(std::string(kSave) + "--text book.txt --context 4").status, 0);
  const json prompt = Recording::open("rec/CPU/tiny/batch1_input0.kvc").meta().at("prompt");
  EXPECT_EQ(prompt.at("origin"), "book.txt cut to 4 tokens");
  // The text of the tokens, not of the file.
  EXPECT_EQ(prompt.at("text"), " t3 t33 t44 t44");
}

TEST_F(Context, ComesAfterOtherPrompts) {
  const CommandResult result =
      run("generate --model models/tiny.pt --max-new-tokens 1 --text book.txt --context 2 --json -",
          {"--prompt", "abc"});
  ASSERT_EQ(result.status, 0) << result.err;
  std::vector<int> lengths;
  const json document = json::parse(result.out);
  for (const json& input : document.at("results")) {
    lengths.push_back(input.at("prompt").at("tokens"));
  }
  EXPECT_THAT(lengths, ElementsAre(3, 2));
}

TEST_F(Context, AReplayKnowsItsPromptByLength) {
  ASSERT_EQ(run(std::string(kSave) + "--text book.txt --context 4").status, 0);
  EXPECT_EQ(run("replay --from rec/CPU --model models/tiny.pt --text book.txt --context 4").status,
            0);
  const CommandResult other =
      run("replay --from rec/CPU --model models/tiny.pt --text book.txt --context 5");
  EXPECT_EQ(other.status, 2);
  EXPECT_THAT(other.err, HasSubstr("the prompt of book.txt cut to 5 tokens is not the one"));
}

TEST_F(Context, ACalibrationRecordsIt) {
  ASSERT_EQ(run("calibrate --model models/tiny.pt --text book.txt --context 4 --runs 5 "
                "--max-new-tokens 3 --ignore-eos --out gate.json")
                .status,
            0);
  ASSERT_FALSE(engine_.replayed_batches.empty());
  EXPECT_EQ(engine_.replayed_batches.front().padded_length, 4U);
}

TEST_F(Context, IsRefusedWhereTheTextIsTooShort) {
  const CommandResult result =
      run("generate --model models/tiny.pt --text book.txt --context 4,17");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err,
              HasSubstr("book.txt cut to 17 tokens: the text has only 16 tokens of this "
                        "model: give a longer one, or --context 16 at most"));
}

TEST_F(Context, TypicalMistakesSayWhatToDo) {
  expect_usage_error("--text book.txt", "--text needs --context N[,N...]");
  expect_usage_error("--context 64",
                     "--context cuts a text to so many tokens: name it with --text");
  expect_usage_error("--text book.txt --context 0", "--context");
  expect_usage_error("--text book.txt --context 4,x", "--context");
  expect_usage_error("--text none.txt --context 4", "none.txt");
  expect_usage_error("--text models --context 4", "models");
  write("empty.txt", "");
  expect_usage_error("--text empty.txt --context 4", "empty.txt: the text is empty");
  write("latin1.txt", "caf\xE9");
  expect_usage_error("--text latin1.txt --context 4", "latin1.txt: the text is not valid UTF-8");
  write("utf16.txt", std::string("\xFF\xFE"
                                 "a\0b\0",
                                 6));
  expect_usage_error("--text utf16.txt --context 1", "utf16.txt is UTF-16");
}

TEST_F(Context, AByteOrderMarkIsNoToken) {
  write("marked.txt", "\xEF\xBB\xBFxyz");
  const CommandResult result =
      run("generate --model models/tiny.pt --text marked.txt --context 4 --max-new-tokens 1");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("only 3 tokens"));
}

}  // namespace
}  // namespace kvtool::cli
