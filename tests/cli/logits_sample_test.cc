// --logits-sample: what is recorded, shown, continued and replayed.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <set>

#include "kvtool/format/reader.h"
#include "save_replay_fixture.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

class LogitsSample : public SaveReplay {
 protected:
  void SetUp() override {
    SaveReplay::SetUp();
    engine_.vocab_size = 300;
  }

  static format::Recording recording(const std::string& out, std::uint64_t input = 0) {
    return format::Recording::open(out + "/CPU/tiny/batch1_input" + std::to_string(input) + ".kvc");
  }

  static int minor_version(const std::string& out) {
    return read(out + "/CPU/tiny/batch1_input0.kvc").at(10);
  }
};

TEST_F(LogitsSample, IsRecordedByDefaultAtOtherIdsForEveryToken) {
  save(1, "--out rec");
  const auto saved = recording("rec");
  EXPECT_EQ(saved.header().logits_sample, 64U);
  EXPECT_EQ(minor_version("rec"), 1);
  std::set<std::vector<float>> samples{saved.read_prefill_stats().sampled_logits};
  for (std::uint64_t step = 0; step < saved.num_steps(); ++step) {
    samples.insert(saved.read_step_stats(step).sampled_logits);
  }
  EXPECT_EQ(samples.size(), 6U);
}

TEST_F(LogitsSample, HasTheSizeThatTheOptionSays) {
  save(1, "--logits-sample 7 --out rec");
  EXPECT_EQ(recording("rec").header().logits_sample, 7U);
  EXPECT_EQ(engine_.generate_options.back().logits_sample, 7U);
  EXPECT_THAT(run("info rec/CPU/tiny/batch1_input0.kvc").out,
              HasSubstr("\nLogits:       top 32 and a sample of 7 of 300\n"));
  const json info = json::parse(run("info --json rec/CPU/tiny/batch1_input0.kvc").out);
  EXPECT_EQ(info["recordings"][0]["logits_sample"], 7);
}

TEST_F(LogitsSample, IsAtMostTheVocabulary) {
  engine_.vocab_size = 40;
  save(1, "--logits-sample 1024 --out rec");
  EXPECT_EQ(recording("rec").header().logits_sample, 40U);
}

TEST_F(LogitsSample, OfNoneLeavesAFileOfVersionOneZero) {
  save(1, "--logits-sample 0 --out rec");
  EXPECT_EQ(minor_version("rec"), 0);
  EXPECT_EQ(recording("rec").header().logits_sample, 0U);
  EXPECT_THAT(run("info rec/CPU/tiny/batch1_input0.kvc").out,
              HasSubstr("\nLogits:       top 32 of 300\n"));
}

TEST_F(LogitsSample, IsAtMostThatOfTheFormat) {
  write_prompts(1);
  const CommandResult result = run(std::string(kSave) + "--logits-sample 1025");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("--logits-sample"));
}

TEST_F(LogitsSample, OfAnotherSizeIsNotContinued) {
  save(2, "--logits-sample 7 --out rec");
  fs::remove("rec/CPU/tiny/batch1_input1.kvc");
  const CommandResult result = run(std::string(kSave) + "--out rec --resume");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("it was recorded with a sample of logits of 7, this run has "
                                    "64"));
  EXPECT_EQ(run(std::string(kSave) + "--logits-sample 7 --out rec --resume").status, 0);
}

TEST_F(LogitsSample, OfAReplayIsThatOfItsReference) {
  save(1, "--logits-sample 7 --out ref_cache");
  engine_.device.label = "OTHER";
  ASSERT_EQ(run("replay --from CPU --save --out ref_cache").status, 0);
  const auto again = format::Recording::open("ref_cache/OTHER/tiny/batch1_input0.kvc");
  EXPECT_EQ(again.header().logits_sample, 7U);
  const auto reference = recording("ref_cache");
  for (std::uint64_t step = 0; step < again.num_steps(); ++step) {
    EXPECT_EQ(again.read_step_stats(step).sampled_logits,
              reference.read_step_stats(step).sampled_logits);
  }
  EXPECT_THAT(run("replay --help").out, Not(HasSubstr("--logits-sample")));
}

TEST_F(LogitsSample, OfDifferentSizesAreReplayedInParallelOneAfterTheOther) {
  save(2, "--logits-sample 0 --out ref_cache");
  save(1, "--out other");
  const fs::path name = "CPU/tiny/batch1_input0.kvc";
  fs::copy(fs::path("other") / name, "ref_cache" / name, fs::copy_options::overwrite_existing);
  const json report = replay_json("--from CPU --parallel");
  EXPECT_EQ(report["results"].size(), 2U);
  EXPECT_EQ(engine_.replayed_batches.size(), 2U);
}

}  // namespace
}  // namespace kvtool::cli
