// save -> files -> replay: what is written, how it is replayed, how it is judged.
#include <gmock/gmock.h>

#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

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

TEST_F(SaveReplay, MetaHasTheDigestsOfPolicyAndPlatform) {
  engine_.device.provenance_json = kWholeProvenance;
  save(1, "--out ref_cache");
  const fs::path path = "ref_cache/CPU/tiny/batch1_input0.kvc";
  const json numerics = format::Recording::open(path).meta()["numerics"];
  EXPECT_EQ(numerics["policy"]["entries"]["device.provenance.threads"], "2");
  EXPECT_EQ(numerics["platform"]["entries"]["device.provenance.torch_version"], "9.9");
  const std::string policy = numerics["policy"]["digest"];
  EXPECT_EQ(policy.size(), 32U);
  EXPECT_THAT(run("info " + path.string()).out,
              HasSubstr("\nPolicy:       " + policy.substr(0, 12) + "\n"));
  const json info = json::parse(run("info " + path.string() + " --json").out)["recordings"][0];
  EXPECT_EQ(info["numerics"]["policy"]["digest"], policy);
  EXPECT_EQ(info["numerics"]["platform"]["digest"], numerics["platform"]["digest"]);
  EXPECT_EQ(info["numerics"]["platform"]["entries"], numerics["platform"]["entries"]);
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

TEST_F(SaveReplay, GenerationsThatEndInThePrefillPassEveryGateAndSaySo) {
  save(2, "--out ref_cache", 1);
  for (const char* gate : {"same-device", "fp32-cross", "16bit-cross", "fp8"}) {
    const json report =
        replay_json("--from CPU --mode inject,forced,free --gate " + std::string(gate));
    const json& verdict = report["verdicts"][0];
    EXPECT_THAT(verdict["finding"]["text"].get<std::string>(), HasSubstr("no step to judge"));
    std::size_t skipped = 0;
    for (const json& rule : verdict["gate"]["rules"]) {
      skipped += rule["unjudged"] == "no step to judge" ? 1 : 0;
      EXPECT_FALSE(rule["missing"].get<bool>()) << rule;
    }
    EXPECT_GT(skipped, 0U);
  }
  EXPECT_THAT(run("replay --from CPU --gate same-device").out, HasSubstr("SKIPPED"));
  engine_.perturb = [](std::uint64_t, format::StepStats& stats) { stats.top_logits[0] += 1.0F; };
  replay_json("--from CPU --gate same-device", 1);
}

TEST_F(SaveReplay, PrefillOnlyRecordingsPassTheGateOfTheSameDevice) {
  save(2, "--save-mode prefill_only --out ref_cache");
  const json report = replay_json("--from CPU --gate same-device");
  EXPECT_THAT(report["verdicts"][0]["finding"]["text"].get<std::string>(),
              HasSubstr("only tokens and logits were judged"));
  engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
    if (index == 3) stats.logits_digest ^= 1U;
  };
  replay_json("--from CPU --gate same-device", 1);
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

TEST_F(SaveReplay, AMismatchIsShownInPlaceAndAHardFlipFails) {
  save(1, "--out ref_cache");
  engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
    if (index == 2) stats.token = stats.top_ids.back();
  };
  const CommandResult result = run("replay --from CPU");
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.out, HasSubstr("≠ t"));
  EXPECT_THAT(result.out, HasSubstr("Steps: 5, Match: 4/5 (80.0%)"));
  EXPECT_THAT(result.out, HasSubstr("first divergence: step 1, hard flip"));
}

TEST_F(SaveReplay, NonFiniteLogitsFail) {
  save(1, "--out ref_cache");
  engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
    if (index == 1) stats.logsumexp = std::numeric_limits<double>::quiet_NaN();
  };
  EXPECT_EQ(run("replay --from CPU").status, 1);
}

TEST_F(SaveReplay, ADeviceWithoutAFiniteChoiceIsRecordedAllTheSame) {
  save(1, "--out ref_cache");
  engine_.device.label = "OTHER";
  engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
    if (index != 1) return;
    stats.token = -1;
    stats.logsumexp = std::numeric_limits<double>::quiet_NaN();
  };
  const CommandResult result = run("replay --from CPU --save --out ref_cache");
  EXPECT_EQ(result.status, 1) << result.err;
  const auto recording = format::Recording::open("ref_cache/OTHER/tiny/batch1_input0.kvc");
  EXPECT_TRUE(recording.complete());
  recording.verify();
  EXPECT_EQ(recording.read_step_stats(0).token, -1);
}

TEST_F(SaveReplay, OtherWeightsAreRefusedWithBothDigests) {
  save(1, "--out ref_cache");
  engine_.weights = 0xAB;
  const CommandResult result = run("replay --from CPU");
  EXPECT_EQ(result.status, 3);
  EXPECT_THAT(result.err, HasSubstr("recorded: 0100"));
  EXPECT_THAT(result.err, HasSubstr("here:     ab00"));
}

TEST_F(SaveReplay, AnotherConfigIsRefusedWithBothValues) {
  engine_.metadata_json = fake_metadata(1000);
  save(1, "--out ref_cache");
  EXPECT_EQ(run("replay --from CPU").status, 0);
  engine_.metadata_json = fake_metadata(5000);
  const CommandResult result = run("replay --from CPU");
  EXPECT_EQ(result.status, 3);
  EXPECT_THAT(result.err, HasSubstr("another config of the model"));
  EXPECT_THAT(result.err, HasSubstr("recorded: rope_parameters.rope_theta = 1000\n"));
  EXPECT_THAT(result.err, HasSubstr("here:     rope_parameters.rope_theta = 5000"));
}

TEST_F(SaveReplay, TheConfigIsRecordedAndShown) {
  engine_.metadata_json = fake_metadata(1000);
  save(1, "--out ref_cache");
  const fs::path path = "ref_cache/CPU/tiny/batch1_input0.kvc";
  const json model = format::Recording::open(path).meta()["model"];
  EXPECT_EQ(model["config"], json::parse(R"({"rms_norm_eps": 1e-06,
                                             "rope_parameters": {"rope_theta": 1000}})"));
  EXPECT_EQ(model["graph_sha256"], std::string(64, 'b'));
  EXPECT_THAT(run("info " + path.string()).out, HasSubstr("Config:       0000"));
  const json info = json::parse(run("info " + path.string() + " --json").out);
  EXPECT_EQ(info["recordings"][0]["model"]["config_sha256"], model["config_sha256"]);
  EXPECT_EQ(info["recordings"][0]["model"]["graph_sha256"], model["graph_sha256"]);
  EXPECT_EQ(replay_json("--from CPU")["models"][0]["config_sha256"], model["config_sha256"]);
}

TEST_F(SaveReplay, AnotherConfigIsComparedOnRequestAndSaidEverywhere) {
  engine_.metadata_json = fake_metadata(1000);
  save(1, "--out ref_cache");
  engine_.metadata_json = fake_metadata(5000, 'c');
  const CommandResult text = run(
      "replay --from CPU --allow-different-weights --markdown r.md --html r.html --junit r.xml");
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_THAT(text.err, HasSubstr("has another config than the recordings: the comparison is of "
                                  "two models"));
  EXPECT_THAT(text.err, HasSubstr("config rope_parameters.rope_theta: recorded 1000, here 5000"));
  EXPECT_THAT(text.out, HasSubstr("Another config: this model is not built as the model"));
  EXPECT_THAT(text.out, HasSubstr("config rope_parameters.rope_theta: recorded 1000, here 5000"));
  for (const char* report : {"r.md", "r.html", "r.xml"}) {
    EXPECT_THAT(read(report), HasSubstr("Another config: this model")) << report;
    EXPECT_THAT(read(report), HasSubstr("theta")) << report;
  }
  const json result = replay_json("--from CPU --allow-different-weights");
  const json& verdict = result["verdicts"][0];
  EXPECT_EQ(result["results"][0]["replay"]["different_config"], true);
  EXPECT_EQ(verdict["different_config"], true);
  EXPECT_EQ(verdict["different_weights"], false);
  EXPECT_EQ(verdict["provenance"][0]["key"], "model.config.rope_parameters.rope_theta");
  EXPECT_EQ(verdict["provenance"][1]["key"], "model.graph_sha256");
}

TEST_F(SaveReplay, AnotherGraphOrOneVersionsFieldIsANamedDifferenceOnly) {
  engine_.metadata_json = fake_metadata(1000);
  save(1, "--out ref_cache");
  json metadata = json::parse(fake_metadata(1000, 'c', "5.18.0"));
  metadata["config"]["new_setting"] = 3;
  engine_.metadata_json = metadata.dump();
  const json verdict = replay_json("--from CPU")["verdicts"][0];
  EXPECT_EQ(verdict["different_config"], false);
  std::vector<std::string> keys;
  for (const json& difference : verdict["provenance"]) keys.push_back(difference["key"]);
  EXPECT_THAT(keys, testing::ElementsAre("model.config.new_setting", "model.graph_sha256",
                                         "model.transformers_version"));
  // Of one version it is another model.
  metadata["transformers_version"] = "5.17.0";
  engine_.metadata_json = metadata.dump();
  const CommandResult refused = run("replay --from CPU");
  EXPECT_EQ(refused.status, 3);
  EXPECT_THAT(refused.err, HasSubstr("recorded: new_setting = not there"));
}

TEST_F(SaveReplay, ARecordingFromBeforeConfigsSaysThatItCannotTell) {
  save(1, "--out ref_cache");
  EXPECT_THAT(run("info ref_cache/CPU/tiny/batch1_input0.kvc").out,
              HasSubstr("Config:       unknown"));
  EXPECT_TRUE(replay_json("--from CPU")["verdicts"][0]["provenance"].empty());
  engine_.metadata_json = fake_metadata(1000);
  const json verdict = replay_json("--from CPU")["verdicts"][0];
  EXPECT_EQ(verdict["different_config"], false);
  EXPECT_EQ(verdict["provenance"][0]["key"], "model.config");
  EXPECT_EQ(verdict["provenance"][0]["recorded"], "unknown");
  EXPECT_THAT(verdict["provenance"][0]["why"].get<std::string>(), HasSubstr("cannot be told"));
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

TEST_F(SaveReplay, TheGateDecidesAndShowsMeasuredAgainstAllowed) {
  save(1, "--out ref_cache");
  write("strict.json", R"({"name": "strict", "rules": {"inject.tokens.compared": {"min": 1000}}})");
  EXPECT_EQ(run("replay --from CPU --gate same-device").status, 0);
  const CommandResult result = run("replay --from CPU --gate strict.json");
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.out, HasSubstr("inject.tokens.compared"));
  EXPECT_THAT(result.out, HasSubstr("1000"));
}

TEST_F(SaveReplay, ARuleWhoseModeDidNotRunFails) {
  save(1, "--out ref_cache");
  write("forced.json", R"({"name": "f", "rules": {"forced.kl.p99": {"max": 1}}})");
  EXPECT_EQ(run("replay --from CPU --gate forced.json --mode inject").status, 1);
  EXPECT_EQ(run("replay --from CPU --gate forced.json").status, 0) << "runs what the gate names";
  EXPECT_EQ(run("replay --from CPU --gate forced.json --mode inject,forced").status, 0);
}

TEST_F(SaveReplay, TheConfigurationMayHoldTheGate) {
  save(1, "--out ref_cache");
  write("hyperparameter.json",
        R"({"gate": {"name": "own", "rules": {"inject.tokens.compared": {"min": 1000}}}})");
  EXPECT_EQ(run("replay --from CPU").status, 1);
  EXPECT_EQ(run("replay --from CPU --gate same-device").status, 0) << "the command line wins";
}

TEST_F(SaveReplay, AnUnknownGateListsTheBuiltInOnes) {
  save(1, "--out ref_cache");
  const CommandResult result = run("replay --from CPU --gate 16bit-corss");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("16bit-cross"));
}

TEST_F(SaveReplay, DifferentWeightsAreComparedOnRequestAndSaidEverywhere) {
  save(1, "--out ref_cache");
  engine_.weights = 0xAB;
  const CommandResult text = run("replay --from CPU --allow-different-weights");
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("weights"));
  EXPECT_THAT(text.err, HasSubstr("other weights"));
  const json result = replay_json("--from CPU --allow-different-weights");
  EXPECT_EQ(result["results"][0]["replay"]["different_weights"], true);
  EXPECT_EQ(result["verdicts"][0]["different_weights"], true);
}

TEST_F(SaveReplay, SaysAtOnceWhetherTheNumericalPolicyIsTheSame) {
  engine_.device.provenance_json = kWholeProvenance;
  save(2, "--batch-size 2 --out ref_cache");
  const CommandResult same = run("replay --from CPU");
  EXPECT_THAT(same.err, HasSubstr("same numerical policy as the recordings"));
  EXPECT_THAT(same.out, HasSubstr("Numerical policy: the same. Platform: the same."));
  json provenance = json::parse(kWholeProvenance);
  provenance["threads"] = 1;
  engine_.device.provenance_json = provenance.dump();
  const CommandResult other = run("replay --from CPU --batch 1");
  EXPECT_THAT(other.err, Not(HasSubstr("same numerical policy")));
  EXPECT_THAT(other.err, HasSubstr("CPU threads: recorded 2, here 1"));
  EXPECT_THAT(other.out, HasSubstr("Numerical policy: differs in CPU threads, rows of the batch"));
  const json report = replay_json("--from CPU");
  const json& policy = report["verdicts"][0]["numerics"]["policy"];
  EXPECT_EQ(policy["same"], false);
  EXPECT_EQ(policy["differing"], json::parse(R"(["CPU threads"])"));
  EXPECT_NE(policy["recorded"], policy["live"]);
  EXPECT_EQ(report["results"][1]["replay"]["numerics"]["platform"]["same"], true);
}

TEST_F(SaveReplay, AParallelReplayHasAnotherPolicy) {
  engine_.device.provenance_json = kWholeProvenance;
  save(1, "--out ref_cache");
  EXPECT_THAT(run("replay --from CPU --parallel").out,
              HasSubstr("Numerical policy: differs in parallel replay."));
}

TEST_F(SaveReplay, ARecordingThatDoesNotTellItsPolicyIsNotTheSame) {
  save(1, "--out ref_cache");
  engine_.device.provenance_json = kWholeProvenance;
  const CommandResult result = run("replay --from CPU");
  EXPECT_THAT(result.err, Not(HasSubstr("same numerical policy")));
  EXPECT_THAT(replay_json("--from CPU")["verdicts"][0]["numerics"]["policy"]["same"],
              json(nullptr));
  EXPECT_THAT(run("info ref_cache/CPU/tiny/batch1_input0.kvc").out,
              HasSubstr("Policy:       unknown, the recording does not tell: instruction set"));
}

TEST_F(SaveReplay, WarnsOnceAboutAnotherDevice) {
  save(3, "--out ref_cache");
  engine_.device.name = "Another CPU";
  engine_.device.provenance_json = R"({"torch_version": "9.10", "threads": 1})";
  const CommandResult result = run("replay --from CPU");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("9.10"));
  EXPECT_EQ(result.err.find("9.10"), result.err.rfind("9.10"));
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

// The device that comes first has a wide bound; it must not excuse the other's flip.
TEST_F(SaveReplay, EachRecordingHasTheNearTieBoundOfItsDevice) {
  save(1, "--logits-sample 0 --out ref_cache --device-label LAX");
  save(1, "--logits-sample 0 --out ref_cache --device-label STRICT");
  fs::copy("ref_cache/STRICT/tiny/batch1_input0.kvc", "ref_cache/LAX/tiny/batch1_input1.kvc");
  write("gate.json", R"({"rules": {"*.tokens.tie_rate": null},
      "overrides": [{"reference_device": "LAX", "near_tie_ulps": 1e9}]})");
  engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
    if (index != 1) return;
    std::swap(stats.top_ids[0], stats.top_ids[1]);
    stats.token = stats.top_ids[0];
  };
  const json report = replay_json("--from LAX --batch 1 --gate gate.json", 1);
  std::map<std::string, bool> passed;
  for (const json& verdict : report["verdicts"]) {
    passed[verdict["reference_device"]] = verdict["gate"]["passed"].get<bool>();
  }
  EXPECT_EQ(passed, (std::map<std::string, bool>{{"LAX", true}, {"STRICT", false}}));
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
