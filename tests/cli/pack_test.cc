// kvtool pack and unpack, and packed recordings in the other commands.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli_fixture.h"

namespace kvtool::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr const char* kFirst = "rec/CPU/tiny/batch2_input0.kvc";
constexpr const char* kSecond = "rec/CPU/tiny/batch2_input1.kvc";

class PackCommandTest : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    // Enough steps to pay: a packed file has tables that a tiny one does not earn back.
    save(2, "--batch-size 2 --out rec", 200);
    first_ = read(kFirst);
    second_ = read(kSecond);
  }

  std::string first_;
  std::string second_;
};

TEST_F(PackCommandTest, PacksAFolderAndUnpacksEveryByte) {
  const CommandResult packed = run("pack rec");
  ASSERT_EQ(packed.status, 0) << packed.err;
  EXPECT_THAT(packed.out, HasSubstr("Packed 2 recordings: "));
  EXPECT_THAT(packed.out, HasSubstr(kFirst));
  EXPECT_LT(read(kFirst).size(), first_.size());
  const CommandResult again = run("pack rec");
  EXPECT_EQ(again.status, 0);
  EXPECT_THAT(again.out, HasSubstr(std::string("unchanged   ") + kFirst + ": is packed already"));
  EXPECT_THAT(again.out, HasSubstr("Packed 0 recordings\n"));
  const CommandResult unpacked = run("unpack rec --threads 1");
  ASSERT_EQ(unpacked.status, 0) << unpacked.err;
  EXPECT_THAT(unpacked.out, HasSubstr("Unpacked 2 recordings: "));
  EXPECT_EQ(read(kFirst), first_);
  EXPECT_EQ(read(kSecond), second_);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator("rec/CPU/tiny"), {}), 2);
}

TEST_F(PackCommandTest, OtherCommandsReadPackedRecordings) {
  ASSERT_EQ(run("dump " + std::string(kFirst) + " --to before.safetensors").status, 0);
  const std::string before = run("replay --from rec --model models/tiny.pt --json -").out;
  std::filesystem::create_directories("copy");
  write("copy/batch2_input0.kvc", first_);
  write("copy/batch2_input1.kvc", second_);
  ASSERT_EQ(run("pack rec").status, 0);

  ASSERT_EQ(run("dump " + std::string(kFirst) + " --to after.safetensors").status, 0);
  EXPECT_EQ(read("after.safetensors"), read("before.safetensors"));
  EXPECT_THAT(run("info " + std::string(kFirst)).out, HasSubstr("MB, packed from 0."));
  EXPECT_THAT(run("info rec").out, HasSubstr("  (packed)"));
  const auto info = nlohmann::json::parse(run("info --json " + std::string(kFirst)).out);
  EXPECT_EQ(info["recordings"][0]["packed"]["unpacked_bytes"], first_.size());
  EXPECT_EQ(info["recordings"][0]["bytes"], read(kFirst).size());
  const CommandResult diff = run("diff rec/CPU/tiny copy --gate same-device");
  EXPECT_EQ(diff.status, 0) << diff.out << diff.err;
  const CommandResult replay = run("replay --from rec --model models/tiny.pt --json -");
  EXPECT_EQ(replay.status, 0) << replay.err;
  const auto figures = [](const std::string& document) {
    return nlohmann::json::parse(document)["verdicts"].at(0)["figures"];
  };
  EXPECT_EQ(figures(replay.out), figures(before));
}

TEST_F(PackCommandTest, OutputKeepsTheRecordingAndOverwritesNothing) {
  ASSERT_EQ(run("pack " + std::string(kFirst) + " -o small.kvc").status, 0);
  EXPECT_EQ(read(kFirst), first_);
  EXPECT_LT(read("small.kvc").size(), first_.size());
  const CommandResult twice = run("pack " + std::string(kSecond) + " -o small.kvc");
  EXPECT_EQ(twice.status, 2);
  EXPECT_THAT(twice.err, HasSubstr("--force to replace it"));
  ASSERT_EQ(run("unpack small.kvc -o whole.kvc").status, 0);
  EXPECT_EQ(read("whole.kvc"), first_);
  const CommandResult folder = run("pack rec -o one.kvc");
  EXPECT_EQ(folder.status, 2);
  EXPECT_THAT(folder.err, HasSubstr("--out names one file"));
}

TEST_F(PackCommandTest, ALinkKeepsPointingAtTheRecording) {
  std::filesystem::create_symlink(kFirst, "link.kvc");
  ASSERT_EQ(run("pack link.kvc").status, 0);
  EXPECT_TRUE(std::filesystem::is_symlink("link.kvc"));
  EXPECT_LT(read(kFirst).size(), first_.size());
}

TEST_F(PackCommandTest, OneThatFailsStopsNoOther) {
  write(kFirst, first_.substr(0, first_.size() - 100));
  write("rec/CPU/tiny/batch2_input2.kvc.partial", first_);
  const CommandResult result = run("pack rec --json report.json");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("recover it first"));
  EXPECT_THAT(result.out, HasSubstr(std::string("FAILED      ") + kFirst));
  EXPECT_THAT(result.out, HasSubstr("Packed 1 recording: "));
  EXPECT_EQ(read(kFirst).size(), first_.size() - 100);
  EXPECT_LT(read(kSecond).size(), second_.size());
  EXPECT_EQ(read("rec/CPU/tiny/batch2_input2.kvc.partial"), first_);
  const auto report = nlohmann::json::parse(read("report.json"));
  EXPECT_THAT(report["packing"]["recordings"][0]["error"].get<std::string>(),
              HasSubstr("is truncated"));
  EXPECT_EQ(report["packing"]["recordings"][1]["original_bytes"], second_.size());
}

TEST_F(PackCommandTest, TypicalMistakesAreNamed) {
  EXPECT_THAT(run("pack none").err, HasSubstr("none: there is no such file or folder"));
  EXPECT_THAT(run("pack models").err, HasSubstr("holds no finished recording (*.kvc)"));
  EXPECT_EQ(run("pack").status, 2);
  EXPECT_EQ(run("pack rec --threads 0").status, 2);
  const CommandResult foreign = run("pack prompts.jsonl");
  EXPECT_EQ(foreign.status, 4);
  EXPECT_THAT(foreign.err, HasSubstr("not a kvtool recording"));
  EXPECT_THAT(run("unpack " + std::string(kFirst)).out, HasSubstr("is not packed"));
}

}  // namespace
}  // namespace kvtool::cli
