// Chats whose template reads the clock: what is recorded, and how a run goes on.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli_fixture.h"
#include "kvtool/format/reader.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

class ChatClock : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    write("prompts.jsonl",
          R"({"messages": [{"role": "user", "content": "a"}]})"
          "\n"
          R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "b"}]}]})"
          "\n"
          R"({"text": "c"})"
          "\n");
  }

  // A template that writes the minute: a token of its own.
  CommandResult save(const std::string& options, const std::string& now) {
    encoder_ = [now](std::string_view input) {
      const json request = json::parse(input);
      const std::string clock = request.value("clock", now);
      json answer = {{"prompts", json::array()}};
      for (const json& prompt : request["prompts"]) {
        const bool chat = prompt.contains("messages");
        json item = {{"token_ids", {5, chat ? std::stoi(clock.substr(14, 2)) : 7}}, {"text", "x"}};
        if (chat) item["clock"] = clock;
        answer["prompts"].push_back(item);
      }
      return ProcessResult{0, answer.dump(), ""};
    };
    return run(
        "save --model models/tiny.pt --prompts prompts.jsonl --ignore-eos --out rec "
        "--max-new-tokens 4 " +
        options);
  }

  static json prompt_of(int input) {
    const std::string name = "rec/CPU/tiny/batch1_input" + std::to_string(input) + ".kvc";
    return format::Recording::open(name).meta()["prompt"];
  }
};

constexpr const char* kEarlier = "2026-11-30T13:22:15.000001";
constexpr const char* kLater = "2026-11-30T13:23:00.500000";

TEST_F(ChatClock, IsWarnedOfAndRecorded) {
  const CommandResult result = save("", kEarlier);
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("prompts.jsonl line 1 and 1 more prompt: the chat template "
                                    "reads the clock (2026-11-30T13:22:15.000001)"));
  EXPECT_THAT(result.err, HasSubstr("--resume"));
  EXPECT_EQ(prompt_of(0)["clock"], kEarlier);
  EXPECT_EQ(prompt_of(1)["messages"][0]["content"][0]["text"], "b") << "parts stay parts";
  EXPECT_FALSE(prompt_of(2).contains("clock"));
}

TEST_F(ChatClock, AResumedRunHasTheRecordedPrompts) {
  ASSERT_EQ(save("", kEarlier).status, 0);
  fs::remove("rec/CPU/tiny/batch1_input1.kvc");
  const CommandResult result = save("--resume", kLater);
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(engine_.generated_batches.size(), 4U) << "the missing one alone";
  EXPECT_EQ(prompt_of(1)["clock"], kEarlier);
  EXPECT_EQ(format::Recording::open("rec/CPU/tiny/batch1_input1.kvc").prompt()[1], 22);
}

TEST_F(ChatClock, ARunWithoutRecordedTimeSaysWhyItCannotGoOn) {
  // As versions that recorded no time left it.
  write("prompts.jsonl", R"({"token_ids": [5, 22]})");
  ASSERT_EQ(run("save --model models/tiny.pt --prompts prompts.jsonl --ignore-eos --out rec "
                "--max-new-tokens 4")
                .status,
            0);
  write("prompts.jsonl", R"({"messages": [{"role": "user", "content": "a"}]})");
  const CommandResult result = save("--resume", kLater);
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("prompt token 1 (the chat template reads the clock) 22, this "
                                    "run has 23"));
}

TEST_F(ChatClock, ADiffOfTwoTimesSaysWhatMadeThePromptsDiffer) {
  ASSERT_EQ(save("", kEarlier).status, 0);
  fs::rename("rec", "first");
  ASSERT_EQ(save("", kLater).status, 0);
  const CommandResult result = run("diff first rec");
  EXPECT_EQ(result.status, 3);
  EXPECT_THAT(result.err, HasSubstr("the chat template reads the clock, which was "
                                    "2026-11-30T13:22:15.000001 and 2026-11-30T13:23:00.500000"));
}

TEST_F(ChatClock, WarningsOfPromptsAreToldOnceWithTheirOrigin) {
  encoder_ = [](std::string_view input) {
    json answer = {{"prompts", json::array()}};
    for (std::size_t i = 0; i < json::parse(input)["prompts"].size(); ++i) {
      answer["prompts"].push_back({{"token_ids", {1, 1}}, {"text", "x"}});
      if (i > 0) answer["prompts"][i]["warnings"] = {"begins with two begins"};
    }
    return ProcessResult{0, answer.dump(), ""};
  };
  const CommandResult result =
      run("generate --model models/tiny.pt --prompts prompts.jsonl --max-new-tokens 2");
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.err,
              HasSubstr("prompts.jsonl line 2 and 1 more prompt: begins with two begins"));
  EXPECT_THAT(result.err, Not(HasSubstr("line 3")));
}

TEST_F(ChatClock, EndTokensOfTheModelAreRecordedAndAResumedRunHasThem) {
  write_prompts(2);
  const std::string command =
      "save --model models/tiny.pt --prompts prompts.jsonl --out rec --max-new-tokens 4 ";
  engine_.metadata_json =
      R"({"eos_token_ids": [2, 7], "generation_not_applied": {"repetition_penalty": 1.5}})";
  ASSERT_EQ(run(command).status, 0);
  const CommandResult info = run("info rec/CPU/tiny/batch1_input0.kvc");
  EXPECT_THAT(info.out, HasSubstr("end-of-sequence ids: [2,7]"));
  EXPECT_THAT(info.out, HasSubstr("not applied: repetition_penalty: 1.5"));
  EXPECT_EQ(run(command + "--resume").status, 0);
  engine_.metadata_json = R"({"eos_token_ids": [2]})";
  const CommandResult other = run(command + "--resume");
  EXPECT_EQ(other.status, 2);
  EXPECT_THAT(other.err, HasSubstr("end-of-sequence ids [2,7], this run has [2]"));
  engine_.metadata_json = "{}";
  EXPECT_EQ(run(command + "--resume").status, 0) << "a model file that does not say";
}

}  // namespace
}  // namespace kvtool::cli
