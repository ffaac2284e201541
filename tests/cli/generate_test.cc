// generate with a fake engine: what a prompt may be.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "cli_fixture.h"

namespace kvtool::cli {
namespace {

using testing::HasSubstr;

class Generate : public CommandTest {};

TEST_F(Generate, TextGoesThroughTheEncoder) {
  const CommandResult result =
      run("generate --model models/tiny.pt --max-new-tokens 3 --request-number 3",
          {"--prompt", "Hello there", "--prompt", "Bye"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("Prompt: 11 tokens\n    Hello there\n"));
  EXPECT_THAT(result.out, HasSubstr("\nInput 2\n"));
  EXPECT_EQ(encoder_requests_.size(), 1U);
}

TEST_F(Generate, TokenIdsNeedNoEncoder) {
  write_prompts(1);
  EXPECT_EQ(run("generate --model models/tiny.pt --prompts prompts.jsonl").status, 0);
  EXPECT_TRUE(encoder_requests_.empty());
}

TEST_F(Generate, ATokenOutsideTheVocabularyIsNamed) {
  write("prompts.jsonl", "{\"token_ids\": [1, 999]}\n");
  const CommandResult result = run("generate --model models/tiny.pt --prompts prompts.jsonl");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("input 0 (prompts.jsonl line 1): token id 999"));
}

TEST_F(Generate, TooManyPositionsNameTheMostPossible) {
  engine_.max_positions = 10;
  write("prompts.jsonl", "{\"token_ids\": [1, 2, 3]}\n");
  const CommandResult result =
      run("generate --model models/tiny.pt --prompts prompts.jsonl --max-new-tokens 9");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("--max-new-tokens 8 at most"));
  EXPECT_EQ(
      run("generate --model models/tiny.pt --prompts prompts.jsonl --max-new-tokens 8").status, 0);
}

TEST_F(Generate, AFailureIsInTheJsonToo) {
  write_prompts(1);
  EXPECT_EQ(run("generate --model models/none.pt --prompts prompts.jsonl --json r.json").status, 2);
  EXPECT_EQ(nlohmann::json::parse(read("r.json"))["error"]["exit_status"], 2);
}

// Of ten million inputs, none is made before its turn.
TEST_F(Generate, MillionsOfInputsBeginAtOnceAndStopAtOnce) {
  write("prompts.jsonl", "{\"token_ids\": [3, 4]}\n{\"token_ids\": [5]}\n");
  write("many.json", R"({"models": ["models/tiny.pt"], "request_number": 1000000000})");
  engine_.on_step = [](std::uint64_t batch, std::uint64_t) {
    if (batch == 1) interrupt_source().request_stop();
  };
  for (const char* command : {"generate", "save --out rec"}) {
    engine_.generated_batches.clear();
    const CommandResult result =
        run(std::string(command) +
            " --config many.json --prompts prompts.jsonl --max-new-tokens 3 --ignore-eos");
    EXPECT_EQ(result.status, kInterruptedStatus) << result.err;
    EXPECT_LE(engine_.generated_batches.size(), 2U);
  }
}

TEST_F(Generate, OneInputIsABatchOfAnySize) {
  write("prompts.jsonl", "{\"token_ids\": [3, 4]}\n");
  const CommandResult result =
      run("generate --model models/tiny.pt --prompts prompts.jsonl --max-new-tokens 2 "
          "--batch-size 2147483647");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(engine_.generated_batches, (std::vector<std::size_t>{1}));
}

}  // namespace
}  // namespace kvtool::cli
