// calibrate with the fake engine; its plan, its gate and its workers are tested in tests/run.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "cli_fixture.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

// The workers run in this process, where no instruction set can be limited: settings are varied
// by name alone.
class CalibrateCommand : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    fs::create_directory("temporary");
    ::setenv("TMPDIR", fs::absolute("temporary").c_str(), 1);
    write_prompts(3);
  }
  void TearDown() override {
    EXPECT_TRUE(fs::is_empty("temporary"));
    ::unsetenv("TMPDIR");
    CommandTest::TearDown();
  }

  static json gate() { return json::parse(read("gate.json")); }
};

constexpr const char* kCalibrate =
    "calibrate --model models/tiny.pt --prompts prompts.jsonl --max-new-tokens 6 --ignore-eos "
    "--batch-size 2 --out gate.json --runs 5 ";

TEST_F(CalibrateCommand, RecordsMeasuresAndWritesAGate) {
  const CommandResult result = run(kCalibrate);
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("gate.json"));
  EXPECT_EQ(engine_.generated_batches, (std::vector<std::size_t>{2, 1}));
  const json file = gate();
  EXPECT_EQ(file["name"], "calibrated-tiny-CPU");
  EXPECT_EQ(file["noise_z"], 4.0);
  EXPECT_FALSE(file.contains("near_tie_ulps"));
  // An engine without noise.
  EXPECT_EQ(file["rules"]["inject.kl_estimate.p99"]["max"], 1e-9);
  EXPECT_EQ(file["rules"]["forced.kv.key.layer_max.relative_l2"]["max"], 1e-8);
  const json& figures = file["evidence"]["runs"][0]["figures"];
  EXPECT_EQ(figures["inject.tokens.compared"], 3 * 5);
  EXPECT_EQ(figures["forced.tokens.matches"], 3 * 5);
}

TEST_F(CalibrateCommand, WritesNoGateFromGenerationsWithoutSteps) {
  const CommandResult result =
      run("calibrate --model models/tiny.pt --prompts prompts.jsonl --max-new-tokens 1 "
          "--out gate.json --runs 5");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("no step to measure"));
  EXPECT_FALSE(fs::exists("gate.json"));
}

// What a calibration saw is what a replay of the same recordings says. Without a sample of logits
// it bounds gaps by the grid of the number format.
TEST_F(CalibrateCommand, FiguresAreThoseOfAReplay) {
  engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
    for (float& logit : stats.top_logits) logit += 0.001F * static_cast<float>(index);
    if (index != 2) return;
    std::swap(stats.top_ids[0], stats.top_ids[1]);
    stats.token = stats.top_ids[0];
  };
  ASSERT_EQ(run("save --model models/tiny.pt --prompts prompts.jsonl --max-new-tokens 6 "
                "--ignore-eos --logits-sample 0 --batch-size 1,2 --out ref_cache")
                .status,
            0);
  ASSERT_EQ(run("calibrate --from CPU --batch-size 1,2 --out gate.json --runs 5").status, 0);
  write("measuring.json", R"({"near_tie_ulps": 1e9})");
  const CommandResult replay =
      run("replay --from CPU --batch-size 1,2 --mode inject,forced --gate measuring.json --json -");
  const json report = json::parse(replay.out);
  const json file = gate();
  EXPECT_EQ(file["evidence"]["runs"][0]["figures"], report["verdicts"][0]["figures"]);
  double largest = 0.0;
  for (const json& input : report["results"]) {
    for (const json& mode : input["replay"]["modes"]) {
      for (const json& each : mode["mismatches"]) {
        largest = std::max(largest, each["gap"].get<double>() / each["ulp"].get<double>());
      }
    }
  }
  EXPECT_GT(largest, 2.0);
  EXPECT_EQ(file["evidence"]["runs"][0]["largest_gap_ulps"], largest);
  EXPECT_EQ(file["near_tie_ulps"], std::ceil(largest));
  EXPECT_EQ(file["evidence"]["runs"].back()["settings"]["batch"], "1");
}

TEST_F(CalibrateCommand, RecordingsOfTwoDevicesAreNoOneGate) {
  for (const char* label : {"A", "B"}) {
    ASSERT_EQ(run("save --model models/tiny.pt --prompts prompts.jsonl --max-new-tokens 3 "
                  "--ignore-eos --out ref_cache --device-label",
                  {label})
                  .status,
              0);
  }
  fs::rename("ref_cache/B/tiny/batch1_input2.kvc", "ref_cache/A/tiny/batch1_input2.kvc");
  const CommandResult result =
      run("calibrate --model models/tiny.pt --from A --out gate.json --runs 5");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("there are 2 such groups: name one folder with --from"));
}

TEST_F(CalibrateCommand, ErrorsOfAWorkerAreSpelledAsOptions) {
  const CommandResult result = run(std::string(kCalibrate) + "--batch-size 0");
  EXPECT_EQ(result.status, 2);
  const CommandResult label = run("calibrate --model models/tiny.pt --from X --out gate.json");
  EXPECT_EQ(label.status, 2);
  EXPECT_THAT(label.err, HasSubstr("the replay \"as recorded\" failed: no recordings of 'X'"));
  const CommandResult model = run("calibrate --model no.pt --prompt x --out gate.json");
  EXPECT_EQ(model.status, 2);
  EXPECT_THAT(model.err, HasSubstr("recording the reference failed: model file no.pt does not"));
  engine_.max_positions = 4;
  const CommandResult positions = run(kCalibrate);
  EXPECT_EQ(positions.status, 2);
  EXPECT_THAT(positions.err, HasSubstr("use --max-new-tokens"));
  EXPECT_FALSE(fs::exists("gate.json"));
}

TEST_F(CalibrateCommand, CtrlCEndsItAndLeavesNothingBehind) {
  engine_.on_step = [](std::uint64_t, std::uint64_t step) {
    if (step == 3) interrupt_source().request_stop();
  };
  EXPECT_EQ(run(kCalibrate).status, kInterruptedStatus);
  EXPECT_FALSE(fs::exists("gate.json"));
}

TEST_F(CalibrateCommand, NeedsAPromptOrRecordings) {
  const CommandResult result = run("calibrate --model models/tiny.pt --out gate.json");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("no prompt: give --prompt"));
}

TEST_F(CalibrateCommand, ChecksItsTargetBeforeItRunsAnything) {
  write("gate.json", "{}");
  EXPECT_EQ(run("calibrate").status, 2);
  const CommandResult exists = run("calibrate --model models/tiny.pt --from CPU --out gate.json");
  EXPECT_EQ(exists.status, 2);
  EXPECT_NE(exists.err.find("gate.json exists already"), std::string::npos) << exists.err;
  const CommandResult folder = run("calibrate --from CPU --out missing/gate.json");
  EXPECT_EQ(folder.status, 2);
  EXPECT_NE(folder.err.find("the folder missing does not exist"), std::string::npos) << folder.err;
}

TEST_F(CalibrateCommand, TakesOneModelAndOneSourceOfInputs) {
  const CommandResult models =
      run("calibrate --model models/tiny.pt --model b.pt --from CPU --out gate.json");
  EXPECT_EQ(models.status, 2);
  EXPECT_NE(models.err.find("calibrate takes one model"), std::string::npos) << models.err;
  const CommandResult both = run("calibrate --from CPU --out gate.json --prompt", {"hello"});
  EXPECT_EQ(both.status, 2);
  EXPECT_NE(both.err.find("--from has its own prompts"), std::string::npos) << both.err;
}

TEST_F(CalibrateCommand, NeedsFiveRunsAndAFactorOfAtLeastOne) {
  EXPECT_EQ(run("calibrate --from CPU --out gate.json --runs 4").status, 2);
  EXPECT_EQ(run("calibrate --from CPU --out gate.json --safety 0.5").status, 2);
}

class CalibrateWorkerCommand : public CommandTest {};

TEST_F(CalibrateWorkerCommand, ByHandItSaysWhoStartsIt) {
  const CommandResult result = run("calibrate-worker");
  EXPECT_EQ(result.status, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("run kvtool calibrate instead"));
  input_ = "nonsense";
  EXPECT_EQ(run("calibrate-worker").status, 2);
  input_ = "{}";
  const CommandResult empty = run("calibrate-worker");
  EXPECT_EQ(empty.status, 2);
  EXPECT_THAT(empty.err, HasSubstr("expected version 3"));
}

TEST_F(CalibrateWorkerCommand, NoHelpOrSuggestionNamesIt) {
  EXPECT_THAT(run("--help").out, Not(HasSubstr("worker")));
  EXPECT_THAT(run("calibrate-work").err, Not(HasSubstr("worker")));
  EXPECT_THAT(run("calibrate-work").err, HasSubstr("The commands are"));
}

}  // namespace
}  // namespace kvtool::cli
