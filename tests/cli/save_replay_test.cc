// save -> files -> replay: what is written, and how it is replayed.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "kvtool/format/reader.h"
#include "save_replay_fixture.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

std::uint64_t bitwise_equal_inputs(const json& report) {
  std::uint64_t count = 0;
  for (const json& result : report["results"]) {
    count += result["replay"]["modes"][0]["bitwise_equal"].get<bool>() ? 1 : 0;
  }
  return count;
}

TEST_F(SaveReplay, NamesFilesByTimeDeviceModelBatchAndInput) {
  save(3, "--batch-size 2");
  const fs::path folder = "outputs/20260102-030405/kv_caches/CPU/tiny";
  for (const char* name : {"batch2_input0.kvc", "batch2_input1.kvc", "batch2_input2.kvc"}) {
    EXPECT_TRUE(fs::exists(folder / name)) << name;
  }
  EXPECT_EQ(engine_.generated_batches, (std::vector<std::size_t>{2, 1}));
}

TEST_F(SaveReplay, ASecondRunInTheSameSecondGetsItsOwnFolder) {
  save(1, "");
  save(1, "");
  EXPECT_TRUE(fs::exists("outputs/20260102-030405-2/kv_caches/CPU/tiny/batch1_input0.kvc"));
}

TEST_F(SaveReplay, PrintsTheCommandThatReplays) {
  write_prompts(1);
  const CommandResult result = run(std::string(kSave) + "--out rec");
  EXPECT_THAT(result.out, HasSubstr("kvtool replay --from rec/CPU --model models/tiny.pt"));
  EXPECT_EQ(run("replay --from rec/CPU --model models/tiny.pt").status, 0);
}

TEST_F(SaveReplay, MetaTellsTheBatchAndTheVersions) {
  save(3, "--batch-size 2 --out ref_cache");
  const auto recording = format::Recording::open("ref_cache/CPU/tiny/batch2_input0.kvc");
  const json& run_meta = recording.meta()["run"];
  EXPECT_EQ(run_meta["rows"], 2);
  EXPECT_EQ(run_meta["row"], 0);
  EXPECT_EQ(run_meta["padded_length"], 3);
  EXPECT_EQ(run_meta["padding"], 1);
  EXPECT_EQ(run_meta["cache_capacity"], 3 + 6 - 1);
  EXPECT_EQ(recording.meta()["model"]["exporter_version"], "1");
  EXPECT_EQ(recording.meta()["device"]["provenance"]["torch_version"], "9.9");
  EXPECT_EQ(recording.meta()["created_utc"], "2026-01-02T03:04:05Z");
}

TEST_F(SaveReplay, ReplayNeedsNothingButTheLabel) {
  save(3, "--batch-size 2 --out ref_cache");
  const CommandResult result = run("replay --from CPU");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("\nSteps: 5, Match: 5/5 (100.0%), TPS: 2.50\n"));
  EXPECT_THAT(result.out, HasSubstr("Prefill: token 0 matches, K/V bitwise equal\n"));
  EXPECT_THAT(result.out, HasSubstr("Inputs: 3, fully matching: 3\n"));
  EXPECT_THAT(result.out,
              HasSubstr("inject: 5/5 steps match (100.0%), logits and K/V bitwise equal\n"));
  EXPECT_EQ(engine_.loaded_models.back(), "models/tiny.pt");
}

TEST_F(SaveReplay, ReplaysTheRecordedShape) {
  save(3, "--batch-size 2 --out ref_cache");
  replay_json("--from CPU");
  ASSERT_EQ(engine_.replayed_batches.size(), 2U);
  EXPECT_EQ(engine_.replayed_batches[0].rows.size(), 2U);
  EXPECT_EQ(engine_.replayed_batches[0].padded_length, 3U);
  EXPECT_EQ(engine_.replayed_batches[0].cache_capacity, 8U);
  EXPECT_EQ(engine_.replayed_batches[1].rows.size(), 1U);
}

TEST_F(SaveReplay, BatchOneReplaysOneAtATime) {
  save(3, "--batch-size 3 --out ref_cache");
  replay_json("--from CPU --batch 1");
  ASSERT_EQ(engine_.replayed_batches.size(), 3U);
  EXPECT_EQ(engine_.replayed_batches[0].padded_length, 2U);
  EXPECT_EQ(engine_.replayed_batches[0].cache_capacity, 7U);
}

TEST_F(SaveReplay, AParallelReplayTakesAllInputsAtOnceAndSaysSo) {
  save(3, "--batch-size 2 --out ref_cache");
  const json result =
      replay_json("--from CPU --parallel --parallel-memory 64 --mode inject,forced");
  ASSERT_EQ(engine_.replayed_batches.size(), 2U) << "one call a mode";
  EXPECT_EQ(engine_.replayed_batches[0].rows.size(), 3U);
  EXPECT_TRUE(engine_.replay_options[0].parallel);
  EXPECT_EQ(engine_.replay_options[0].parallel_memory_bytes, std::uint64_t{64} << 20U);
  EXPECT_EQ(result["verdicts"][0]["parallel"], true);
  EXPECT_EQ(result["results"][2]["replay"]["parallel"], true);
  EXPECT_EQ(result["results"][2]["rows"], 1);
  EXPECT_THAT(run("replay --from CPU --parallel").out, HasSubstr("Parallel replay: all steps"));
  EXPECT_THAT(run("replay --from CPU").out, Not(HasSubstr("Parallel replay")));
}

TEST_F(SaveReplay, FreeModeCannotRunInParallel) {
  save(1, "--out ref_cache");
  write("free.json", R"({"name": "needs-free", "rules": {"free.kl.p99": {"max": 1}}})");
  for (const char* options : {"--mode free", "--mode inject,free", "--gate free.json"}) {
    const CommandResult result = run(std::string("replay --from CPU --parallel ") + options);
    EXPECT_EQ(result.status, 2) << options;
    EXPECT_THAT(result.err, HasSubstr("cannot run in parallel"));
  }
  EXPECT_EQ(run("replay --from CPU --parallel --batch 1").status, 2);
}

TEST_F(SaveReplay, AParallelReplayIsRecordedAsOne) {
  save(2, "--batch-size 2 --out ref_cache");
  ASSERT_EQ(run("replay --from CPU --parallel --save --out other").status, 0);
  const auto recording = format::Recording::open("other/CPU/tiny/batch2_input0.kvc");
  EXPECT_EQ(recording.meta()["replay_of"]["parallel"], true);
  EXPECT_EQ(recording.meta()["run"]["rows"], 1);
  EXPECT_EQ(recording.meta()["run"]["padding"], 0);
}

TEST_F(SaveReplay, EverySaveModeReplays) {
  for (const format::SaveModeInfo& info : format::kSaveModes) {
    const std::string mode(info.name);
    save(2, "--batch-size 2 --save-mode " + mode + " --out " + mode);
    const json result = replay_json("--from " + mode + "/CPU");
    EXPECT_EQ(bitwise_equal_inputs(result), 2) << mode;
    EXPECT_EQ(result["results"][0]["replay"]["modes"][0]["own_step_kv"], mode == "prefill_only")
        << mode;
  }
  EXPECT_THAT(run("replay --from prefill_only/CPU").out, HasSubstr("on this device's own K/V"));
}

TEST_F(SaveReplay, ReplaySaveRecordsThisDevice) {
  save(2, "--batch-size 2 --out ref_cache");
  engine_.device.label = "OTHER";
  ASSERT_EQ(run("replay --from CPU --save --out ref_cache").status, 0);
  const auto recording = format::Recording::open("ref_cache/OTHER/tiny/batch2_input1.kvc");
  EXPECT_TRUE(recording.complete());
  EXPECT_EQ(recording.meta()["replay_of"]["device"], "CPU");
  EXPECT_EQ(recording.meta()["device"]["label"], "OTHER");
  EXPECT_EQ(recording.meta()["run"]["padded_length"], 3);
  const json again = replay_json("--from OTHER");
  EXPECT_EQ(bitwise_equal_inputs(again), 2);
}

TEST_F(SaveReplay, SeveralModesAreReportedSideBySide) {
  save(2, "--batch-size 2 --out ref_cache");
  const json result = replay_json("--from CPU --mode forced,inject,forced");
  const json& modes = result["results"][0]["replay"]["modes"];
  ASSERT_EQ(modes.size(), 2U);
  EXPECT_EQ(modes[0]["mode"], "forced");
  EXPECT_EQ(modes[1]["mode"], "inject");
  EXPECT_EQ(result["verdicts"][0]["modes"].size(), 2U);
  EXPECT_EQ(result["summary"]["steps"], 2 * 2 * 5);
}

TEST_F(SaveReplay, AnUnknownModeIsAUsageError) {
  const CommandResult result = run("replay --from CPU --mode teacher");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("teacher"));
}

TEST_F(SaveReplay, WritesEveryKindOfReport) {
  save(2, "--batch-size 2 --out ref_cache");
  const CommandResult result =
      run("replay --from CPU --json r.json --junit r.xml --markdown r.md --html r.html");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("PASS"));
  EXPECT_EQ(json::parse(read("r.json"))["schema_version"], 3);
  EXPECT_THAT(read("r.xml"), HasSubstr("<testsuites"));
  EXPECT_THAT(read("r.md"), HasSubstr("PASS"));
  EXPECT_THAT(read("r.html"), HasSubstr("<html"));
}

TEST_F(SaveReplay, TwoReportsCannotShareATarget) {
  save(1, "--out ref_cache");
  EXPECT_EQ(run("replay --from CPU --json - --junit -").status, 2);
  EXPECT_EQ(run("replay --from CPU --html r --markdown r").status, 2);
  EXPECT_EQ(run("replay --from CPU --html missing/r.html").status, 2);
}

TEST_F(SaveReplay, NeverOverwritesWhatItReplays) {
  save(1, "--out ref_cache");
  const std::string before = read("ref_cache/CPU/tiny/batch1_input0.kvc");
  EXPECT_EQ(run("replay --from CPU --save --out ref_cache").status, 2);
  EXPECT_EQ(run("replay --from CPU --save --out ref_cache --force").status, 2);
  EXPECT_EQ(read("ref_cache/CPU/tiny/batch1_input0.kvc"), before);
}

TEST_F(SaveReplay, ExistingRecordingsAreReplacedOnlyByForce) {
  save(1, "--out ref_cache");
  const CommandResult refused = run(std::string(kSave) + "--out ref_cache");
  EXPECT_EQ(refused.status, 2);
  EXPECT_THAT(refused.err, HasSubstr("--force"));
  EXPECT_EQ(run(std::string(kSave) + "--out ref_cache --force").status, 0);
}

TEST_F(SaveReplay, InterruptionKeepsFinishedRecordings) {
  write_prompts(3);
  engine_.on_step = [](std::uint64_t batch, std::uint64_t step) {
    if (batch == 1 && step == 2) interrupt_source().request_stop();
  };
  const CommandResult result = run(std::string(kSave) + "--out rec");
  EXPECT_EQ(result.status, 130);
  EXPECT_THAT(result.err, HasSubstr("1 of 3 recordings are complete in rec/CPU; unfinished ones "
                                    "end in .partial"));
  EXPECT_TRUE(fs::exists("rec/CPU/tiny/batch1_input0.kvc"));
  EXPECT_TRUE(fs::exists("rec/CPU/tiny/batch1_input1.kvc.partial"));
}

TEST_F(SaveReplay, RunDoesWhatTheConfigurationSays) {
  write_prompts(2);
  const auto config = [](const char* cache) {
    return std::string(R"({"models": ["models/tiny.pt"], "prompts": "prompts.jsonl",
                           "max_new_tokens": 4, "kv_cache": )") +
           cache + "}";
  };
  write("hyperparameter.json", config("{}"));
  EXPECT_THAT(run("run").out, Not(HasSubstr("Saved")));
  write("hyperparameter.json", config(R"({"save": true, "base_dir": "ref_cache"})"));
  EXPECT_THAT(run("run").out, HasSubstr("Saved 2 recordings"));
  write("hyperparameter.json", config(R"({"load": true, "load_from_device": "CPU"})"));
  EXPECT_THAT(run("run").out, HasSubstr("fully matching: 2"));
  write("hyperparameter.json",
        config(R"({"load": true, "load_from_device": "CPU", "save": true})"));
  const CommandResult both = run("run");
  EXPECT_THAT(both.out, HasSubstr("fully matching: 2"));
  EXPECT_THAT(both.out, HasSubstr("Saved 2 recordings"));
}

TEST_F(SaveReplay, TheJsonFileIsCheckedBeforeTheRun) {
  write_prompts(1);
  const CommandResult result = run(std::string(kSave) + "--out rec --json no/such/folder/x.json");
  EXPECT_EQ(result.status, 2);
  EXPECT_FALSE(fs::exists("rec"));
}

}  // namespace
}  // namespace kvtool::cli
