// diff on recordings of the fake engine: pairing, what cannot be compared, and
// the same figures as the replay that made the second recording.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "cli_fixture.h"
#include "kvtool/format/reader.h"
#include "kvtool/format/row.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr std::uint64_t kSteps = 5;

class DiffCommandTest : public CommandTest {
 protected:
  json json_of(const std::string& words, int status) {
    const CommandResult result = run(words + " --json -");
    EXPECT_EQ(result.status, status) << result.err;
    return json::parse(result.out);
  }
  json diff_json(const std::string& words, int status = 0) {
    return json_of("diff " + words, status);
  }
  // The largest logit's distance to the second grows, and V of layer 1 is 1 % too large.
  void perturb_replays() {
    engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
      if (index == 3) stats.top_logits.back() += 0.25F;
      stats.logits_digest += index % 2;
    };
    engine_.perturb_delta = [](std::uint64_t, std::uint32_t layer, std::span<float>,
                               std::span<float> value) {
      for (float& x : value) x *= layer == 1 ? 1.01F : 1.0F;
    };
  }
  static void cut(const fs::path& path, double share) {
    fs::resize_file(path,
                    static_cast<std::uintmax_t>(static_cast<double>(fs::file_size(path)) * share));
  }
  // Writes the row of `from` under another header and META.
  static void rewrite(const fs::path& from, const fs::path& to,
                      const std::function<void(format::RecordingHeader&, json&)>& change,
                      std::vector<std::int32_t> prompt = {}) {
    const auto recording = format::Recording::open(from);
    format::RecordingHeader header = recording.header();
    header.uuid = format::random_uuid();
    json meta = recording.meta();
    change(header, meta);
    if (prompt.empty()) prompt.assign(recording.prompt().begin(), recording.prompt().end());
    const auto sink = format::make_recording_sink({.path = to,
                                                   .header = header,
                                                   .meta_json = meta.dump(),
                                                   .prompt = std::move(prompt),
                                                   .token_text = {},
                                                   .writer = {}});
    format::feed_row(*format::make_row_source(recording), *sink, {});
  }
};

constexpr const char* kFile = "/CPU/tiny/batch2_input0.kvc";

TEST_F(DiffCommandTest, TheSameRecordingsAreBitwiseEqual) {
  save(3, "--batch-size 2 --out a");
  save(3, "--batch-size 2 --out b");
  write("equal.json", R"({"rules": {"*.logits.bitwise_rate": {"min": 1},
                          "free.tokens.uncompared": {"max": 0},
                          "free.kv.*.differing_rate": {"max": 0}}})");
  const json report = diff_json("a b --gate equal.json");
  ASSERT_EQ(report["results"].size(), 3U);
  for (const json& result : report["results"]) {
    const json& mode = result["replay"]["modes"][0];
    EXPECT_EQ(mode["mode"], "free");
    EXPECT_EQ(mode["steps"], kSteps);
    EXPECT_EQ(mode["bitwise_equal"], true);
  }
  EXPECT_EQ(report["verdicts"][0]["finding"]["name"], "reproducible");
}

TEST_F(DiffCommandTest, AReplaysOwnRecordingGivesTheFiguresOfTheReplay) {
  save(3, "--batch-size 2 --out a");
  for (const format::ReplayModeInfo& info : format::kReplayModes) {
    const std::string mode(info.name);
    perturb_replays();
    const json replayed =
        json_of("replay --from a/CPU --save --out b_" + mode + " --mode " + mode, 0);
    const json compared = diff_json("a b_" + mode);
    ASSERT_EQ(compared["verdicts"].size(), 1U);
    EXPECT_EQ(compared["results"][0]["replay"]["modes"][0]["mode"], mode);
    EXPECT_EQ(compared["verdicts"][0]["figures"], replayed["verdicts"][0]["figures"]) << mode;
    EXPECT_GT(compared["verdicts"][0]["figures"][mode + ".kv.value.layer_max.scale_error"], 0.009);
  }
}

TEST_F(DiffCommandTest, ReplaysThatDoNotNameTheirModeInjected) {
  save(1, "--out a");
  ASSERT_EQ(run("replay --from a/CPU --save --out b").status, 0);
  const std::string live = "b/CPU/tiny/batch1_input0.kvc";
  rewrite(live, "old.kvc",
          [](format::RecordingHeader&, json& meta) { meta["replay_of"].erase("mode"); });
  const json report = diff_json("a/CPU/tiny/batch1_input0.kvc old.kvc");
  EXPECT_EQ(report["results"][0]["replay"]["modes"][0]["mode"], "inject");
  EXPECT_EQ(report["results"][0]["replay"]["live"], "old.kvc");
}

TEST_F(DiffCommandTest, TwoReplaysOfOneReferenceAreComparedStepByStep) {
  save(1, "--out a");
  ASSERT_EQ(run("replay --from a/CPU --save --out b").status, 0);
  ASSERT_EQ(run("replay --from a/CPU --save --out c").status, 0);
  const json report = diff_json("b c");
  EXPECT_EQ(report["results"][0]["replay"]["modes"][0]["mode"], "inject");
}

TEST_F(DiffCommandTest, AFailingGateIsExitStatusOne) {
  save(2, "--batch-size 2 --out a");
  perturb_replays();
  ASSERT_EQ(run("replay --from a/CPU --save --out b").status, 0);
  EXPECT_EQ(run("diff a b").status, 0);
  const CommandResult result = run("diff a b --gate fp32-cross");
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.out, HasSubstr("inject.kv.value.layer_max.scale_error"));
  write("lax.json", R"({"name": "lax", "rules": {"*.tokens.match_rate": {"min": 0.5}}})");
  EXPECT_EQ(run("diff a b --gate lax.json").status, 0);
  EXPECT_EQ(run("diff a b --gate nothing.json").status, 2);
}

// The recordings hold fewer than a hundred ids: what was not measured is no pass.
TEST_F(DiffCommandTest, GatesJudgePublishedFigures) {
  save(1, "--out a");
  ASSERT_EQ(run("replay --from a/CPU --save --out b").status, 0);
  write("published.json", R"({"rules": {"inject.logits.top5_accuracy": {"min": 1},
                                        "inject.logits.rms_delta_p": {"max": 0}}})");
  EXPECT_EQ(run("diff a b --gate published.json").status, 0);
  write("pcc.json", R"({"rules": {"inject.kv.*.layer_min.pearson": {"min": 1}}})");
  EXPECT_EQ(run("diff a b --gate pcc.json").status, 0);
  write("hundred.json", R"({"rules": {"inject.logits.top100_agreement": {"min": 1}}})");
  const CommandResult result = run("diff a b --gate hundred.json");
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.out, HasSubstr("MISSING"));

  engine_.vocab_size = 128;
  save(1, "--out c --top-k 100");
  ASSERT_EQ(run("replay --from c/CPU --save --out d").status, 0);
  const json figures = diff_json("c d --gate hundred.json")["verdicts"][0]["figures"];
  EXPECT_EQ(figures["inject.logits.top100_agreement"], 1.0);
}

TEST_F(DiffCommandTest, AMissingPartnerFailsTheRun) {
  save(3, "--batch-size 2 --out a");
  save(3, "--batch-size 2 --out b");
  fs::remove("b/CPU/tiny/batch2_input1.kvc");
  const CommandResult result = run("diff a b");
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, HasSubstr("a/CPU/tiny/batch2_input1.kvc has no partner in b"));
  EXPECT_THAT(result.out, HasSubstr("Inputs: 2, fully matching: 2"));
}

TEST_F(DiffCommandTest, EveryReportNamesWhatHadNoPartner) {
  save(2, "--out a");
  save(1, "--out b");
  const CommandResult result =
      run("diff a b --json r.json --junit r.xml --markdown r.md --html r.html");
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.out, HasSubstr("Not compared"));
  EXPECT_THAT(result.out, HasSubstr("Result: FAIL"));
  const json summary = json::parse(read("r.json"))["summary"];
  EXPECT_EQ(summary["missing"], json::array({"a/CPU/tiny/batch1_input1.kvc"}));
  EXPECT_EQ(summary["failed"], true);
  for (const char* file : {"r.xml", "r.md", "r.html"}) {
    EXPECT_THAT(read(file), HasSubstr("input1.kvc")) << file;
  }
  EXPECT_THAT(read("r.xml"), HasSubstr("failures=\"1\""));
  EXPECT_THAT(read("r.md"), HasSubstr("# kvtool diff: FAIL"));
}

// Nothing was injected: the built-in gates demand the mode that there is.
TEST_F(DiffCommandTest, BuiltInGatesJudgeGenerationsThatRanOnTheirOwn) {
  save(2, "--batch-size 2 --out a");
  save(2, "--batch-size 2 --out b");
  EXPECT_EQ(run("diff a b --gate same-device").status, 0);
  const json report = diff_json("a b --gate same-device");
  EXPECT_GT(report["verdicts"][0]["figures"].count("free.logits.bitwise_rate"), 0U);
}

TEST_F(DiffCommandTest, TokensAreShownByTheirIds) {
  save(1, "--out a");
  perturb_replays();
  static_cast<void>(run("replay --from a/CPU --save --out b"));
  const CommandResult result = run("diff a b");
  EXPECT_THAT(result.out, testing::Not(HasSubstr("[≠]")));
  EXPECT_THAT(result.out, testing::Not(HasSubstr("\"\"")));
}

TEST_F(DiffCommandTest, AnExtraRecordingIsOnlyNamed) {
  save(2, "--batch-size 2 --out a");
  save(3, "--batch-size 2 --out b");
  const CommandResult result = run("diff a b");
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.err, HasSubstr("b/CPU/tiny/batch2_input2.kvc has no partner in a"));
}

TEST_F(DiffCommandTest, FoldersPairAtAnyHeight) {
  save(2, "--batch-size 2 --out a");
  save(2, "--batch-size 2 --out b --device-label OTHER");
  const json report = diff_json("a/CPU/tiny b");
  EXPECT_EQ(report["results"].size(), 2U);
  EXPECT_EQ(report["verdicts"][0]["reference_device"], "CPU");
  EXPECT_EQ(report["verdicts"][0]["device"], "OTHER");
}

TEST_F(DiffCommandTest, ModelsPairByName) {
  write("models/other.pt", "");
  write_prompts(2);
  const std::string save_both =
      "save --model models/tiny.pt --model models/other.pt --prompts prompts.jsonl "
      "--max-new-tokens 3 --ignore-eos --out ";
  ASSERT_EQ(run(save_both + "a").status, 0);
  ASSERT_EQ(run(save_both + "b").status, 0);
  const json report = diff_json("a b");
  std::vector<std::string> models;
  for (const json& verdict : report["verdicts"]) models.push_back(verdict["model"]["slug"]);
  EXPECT_THAT(models, ElementsAre("other", "tiny"));
  EXPECT_EQ(report["results"].size(), 4U);
}

TEST_F(DiffCommandTest, TwoDevicesInOneFolderAreAmbiguous) {
  save(1, "--out a");
  save(1, "--out a --device-label OTHER");
  const CommandResult result = run("diff a a");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("two recordings"));
}

TEST_F(DiffCommandTest, NothingInCommonIsAUsageError) {
  save(2, "--batch-size 2 --out a");
  save(2, "--batch-size 1 --out b");
  const CommandResult result = run("diff a b");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("batch2_input0.kvc of tiny"));
  EXPECT_THAT(result.err, HasSubstr("batch1_input0.kvc of tiny"));
  EXPECT_EQ(run("diff a nowhere").status, 2);
  EXPECT_EQ(run("diff a b/CPU/tiny/batch1_input0.kvc").status, 2);
  // As files they can be compared.
  EXPECT_EQ(run("diff a/CPU/tiny/batch2_input0.kvc b/CPU/tiny/batch1_input0.kvc").status, 0);
}

TEST_F(DiffCommandTest, AnotherPromptOrVocabularyCannotBeCompared) {
  save(2, "--batch-size 2 --out a");
  const CommandResult prompts =
      run("diff a/CPU/tiny/batch2_input0.kvc a/CPU/tiny/batch2_input1.kvc");
  EXPECT_EQ(prompts.status, 3);
  EXPECT_THAT(prompts.err, HasSubstr("another prompt, of 2 tokens against 3"));
  rewrite(std::string("a") + kFile, "vocabulary.kvc",
          [](format::RecordingHeader& header, json&) { header.vocab_size += 1; });
  const CommandResult vocabulary = run(std::string("diff a") + kFile + " vocabulary.kvc");
  EXPECT_EQ(vocabulary.status, 3);
  EXPECT_THAT(vocabulary.err, HasSubstr("another vocabulary"));
  EXPECT_THAT(vocabulary.err, HasSubstr("vocabulary.kvc"));
}

TEST_F(DiffCommandTest, OtherWeightsAreComparedOnRequest) {
  save(2, "--batch-size 2 --out a");
  engine_.weights = 2;
  save(2, "--batch-size 2 --out b");
  const CommandResult refused = run("diff a b");
  EXPECT_EQ(refused.status, 3);
  EXPECT_THAT(refused.err, HasSubstr("other weights"));
  const CommandResult allowed = run("diff a b --allow-different-weights");
  EXPECT_EQ(allowed.status, 0);
  EXPECT_THAT(allowed.err, HasSubstr("the comparison is of two models"));
  const json report = diff_json("a b --allow-different-weights");
  EXPECT_EQ(report["verdicts"][0]["different_weights"], true);
}

TEST_F(DiffCommandTest, AnotherConfigIsComparedOnRequest) {
  engine_.metadata_json = fake_metadata(1000);
  save(2, "--batch-size 2 --out a");
  engine_.metadata_json = fake_metadata(5000);
  save(2, "--batch-size 2 --out b");
  const CommandResult refused = run("diff a b");
  EXPECT_EQ(refused.status, 3);
  EXPECT_THAT(refused.err, HasSubstr("another config of the model"));
  EXPECT_THAT(refused.err, HasSubstr("recorded: rope_parameters.rope_theta = 1000\n"));
  EXPECT_THAT(refused.err, HasSubstr("here:     rope_parameters.rope_theta = 5000"));
  const CommandResult allowed = run("diff a b --allow-different-weights");
  EXPECT_EQ(allowed.status, 0);
  EXPECT_THAT(allowed.err, HasSubstr("recorded with another config: the comparison is of two"));
  EXPECT_THAT(allowed.out,
              HasSubstr("config rope_parameters.rope_theta: recorded 1000, live 5000"));
  const json report = diff_json("a b --allow-different-weights");
  EXPECT_EQ(report["verdicts"][0]["different_config"], true);
  EXPECT_EQ(report["verdicts"][0]["different_weights"], false);
  EXPECT_EQ(report["models"][0]["config_sha256"],
            json::parse(fake_metadata(5000))["config_sha256"]);
}

TEST_F(DiffCommandTest, AnotherGraphIsANamedDifferenceOnly) {
  engine_.metadata_json = fake_metadata(1000);
  save(1, "--out a");
  engine_.metadata_json = fake_metadata(1000, 'c');
  save(1, "--out b");
  const json verdict = diff_json("a b")["verdicts"][0];
  EXPECT_EQ(verdict["different_config"], false);
  ASSERT_EQ(verdict["provenance"].size(), 1U);
  EXPECT_EQ(verdict["provenance"][0]["label"], "traced graph");
}

TEST_F(DiffCommandTest, ADamagedRecordingIsExitStatusFour) {
  save(2, "--batch-size 2 --out a");
  save(2, "--batch-size 2 --out b");
  {
    std::fstream file(std::string("b") + kFile, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(fs::file_size(std::string("b") + kFile) / 2));
    file.write("damage", 6);
  }
  const CommandResult result = run("diff a b");
  EXPECT_EQ(result.status, 4);
  EXPECT_THAT(result.err, HasSubstr("b/CPU/tiny/batch2_input0.kvc"));
}

TEST_F(DiffCommandTest, ATruncatedRecordingIsComparedUpToItsEnd) {
  save(1, "--out a");
  fs::create_directory("b");
  fs::copy_file("a/CPU/tiny/batch1_input0.kvc", "b/batch1_input0.kvc");
  cut("b/batch1_input0.kvc", 0.7);
  const auto left = format::Recording::open("b/batch1_input0.kvc").num_steps();
  ASSERT_GT(left, 0U);
  ASSERT_LT(left, kSteps);
  for (const std::string words : {"a b", "b a"}) {
    const CommandResult result = run("diff " + words);
    EXPECT_EQ(result.status, 0);
    EXPECT_THAT(result.err, HasSubstr("b/batch1_input0.kvc is truncated"));
    const json report = diff_json(words);
    EXPECT_EQ(report["results"][0]["replay"]["modes"][0]["steps"], left);
  }
}

TEST_F(DiffCommandTest, ARecordingWithoutATokenIsDamaged) {
  save(1, "--out a");
  fs::copy_file("a/CPU/tiny/batch1_input0.kvc", "b.kvc");
  while (format::Recording::open("b.kvc").has_prefill()) {
    fs::resize_file("b.kvc", fs::file_size("b.kvc") - 64);
  }
  const CommandResult result = run("diff a/CPU/tiny/batch1_input0.kvc b.kvc");
  EXPECT_EQ(result.status, 4);
  EXPECT_THAT(result.err, HasSubstr("before its first token"));
}

TEST_F(DiffCommandTest, SaveModesMayDiffer) {
  for (const format::SaveModeInfo& info : format::kSaveModes) {
    const std::string mode(info.name);
    save(1, "--save-mode " + mode + " --out " + mode);
  }
  const auto steps_measured = [&](const std::string& words) {
    const json report = diff_json(words);
    EXPECT_EQ(report["results"][0]["replay"]["modes"][0]["bitwise_equal"], true) << words;
    return !report["results"][0]["replay"]["modes"][0]["step_kv"].is_null();
  };
  EXPECT_TRUE(steps_measured("delta final_only"));
  EXPECT_TRUE(steps_measured("final_only delta"));
  EXPECT_FALSE(steps_measured("delta prefill_only"));
  EXPECT_FALSE(steps_measured("prefill_only delta"));
}

TEST_F(DiffCommandTest, RowsThatPartedAreComparedUpToThere) {
  save(1, "--out a");
  engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
    if (index == 2) {
      std::swap(stats.top_ids[0], stats.top_ids[1]);
      stats.token = stats.top_ids[0];
    }
  };
  static_cast<void>(run("replay --from a/CPU --save --out b --mode free"));
  engine_.perturb = nullptr;
  const json report = diff_json("a b", 1);
  const json& mode = report["results"][0]["replay"]["modes"][0];
  EXPECT_EQ(mode["first_divergence"], 2);
  EXPECT_EQ(mode["steps"], 2);
  EXPECT_EQ(mode["uncompared_steps"], 3);
}

TEST_F(DiffCommandTest, ThreadsDoNotChangeTheResult) {
  save(5, "--batch-size 3 --out a");
  perturb_replays();
  ASSERT_EQ(run("replay --from a/CPU --save --out b").status, 0);
  json one = diff_json("a b --threads 1");
  json many = diff_json("a b --threads 7");
  one["summary"].erase("wall_seconds");
  many["summary"].erase("wall_seconds");
  EXPECT_EQ(one, many);
}

TEST_F(DiffCommandTest, CountsTheComparedBytes) {
  save(1, "--out a");
  save(1, "--out b");
  const auto recording = format::Recording::open("a/CPU/tiny/batch1_input0.kvc");
  const json report = diff_json("a b");
  EXPECT_EQ(report["summary"]["compared_bytes"],
            2 * recording.geometry().position_bytes() * recording.num_cached_positions());
}

TEST_F(DiffCommandTest, SaysWhatDiffersInProvenance) {
  save(1, "--out a");
  engine_.device.provenance_json = R"({"torch_version": "10.0"})";
  save(1, "--out b");
  const CommandResult result = run("diff a b");
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.err, HasSubstr("9.9 against 10.0"));
}

TEST_F(DiffCommandTest, CtrlCEndsIt) {
  save(2, "--batch-size 2 --out a");
  interrupt_source().request_stop();
  EXPECT_EQ(run("diff a a").status, kInterruptedStatus);
}

TEST_F(DiffCommandTest, NeedsNoEngine) {
  save(1, "--out a");
  engine_.loaded_models.clear();
  ASSERT_EQ(run("diff a a").status, 0);
  EXPECT_TRUE(engine_.loaded_models.empty());
}

}  // namespace
}  // namespace kvtool::cli
