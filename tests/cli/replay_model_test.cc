// Replays of another model than the recordings': other weights, another config.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "kvtool/format/reader.h"
#include "save_replay_fixture.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

using ReplayModel = SaveReplay;

TEST_F(ReplayModel, OtherWeightsAreRefusedWithBothDigests) {
  save(1, "--out ref_cache");
  engine_.weights = 0xAB;
  const CommandResult result = run("replay --from CPU");
  EXPECT_EQ(result.status, 3);
  EXPECT_THAT(result.err, HasSubstr("recorded: 0100"));
  EXPECT_THAT(result.err, HasSubstr("here:     ab00"));
}

TEST_F(ReplayModel, AnotherConfigIsRefusedWithBothValues) {
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

TEST_F(ReplayModel, TheConfigIsRecordedAndShown) {
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

TEST_F(ReplayModel, AnotherConfigIsComparedOnRequestAndSaidEverywhere) {
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

TEST_F(ReplayModel, AnotherGraphOrOneVersionsFieldIsANamedDifferenceOnly) {
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

TEST_F(ReplayModel, ARecordingFromBeforeConfigsSaysThatItCannotTell) {
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

TEST_F(ReplayModel, DifferentWeightsAreComparedOnRequestAndSaidEverywhere) {
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

}  // namespace
}  // namespace kvtool::cli
