#include "kvtool/analysis/model_config.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

namespace kvtool::analysis {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

json model() {
  return json::parse(R"({
    "transformers_version": "5.17.0",
    "config": {"hidden_act": "silu", "rms_norm_eps": 1e-06, "sliding_window": null,
               "layer_types": ["full_attention", "sliding_attention"],
               "rope_parameters": {"rope_theta": 10000, "rope_type": "default"}}})");
}

std::vector<std::string> texts_of(const std::vector<FieldDifference>& differences) {
  std::vector<std::string> texts;
  for (const FieldDifference& each : differences) {
    texts.push_back(each.field + ": " + each.recorded + " / " + each.live);
  }
  return texts;
}

TEST(ModelConfig, EqualConfigsHaveNoDifference) {
  const ConfigComparison same = compare_configs(model(), model());
  EXPECT_TRUE(same.recorded_known);
  EXPECT_TRUE(same.live_known);
  EXPECT_THAT(same.other, IsEmpty());
  EXPECT_THAT(same.undecided, IsEmpty());
}

TEST(ModelConfig, AnotherValueIsNamedWithItsPlace) {
  json live = model();
  live["config"]["rope_parameters"]["rope_theta"] = 1e6;
  live["config"]["sliding_window"] = 4;
  live["config"]["hidden_act"] = "relu";
  live["config"]["layer_types"][1] = "full_attention";
  const ConfigComparison found = compare_configs(model(), live);
  EXPECT_THAT(
      texts_of(found.other),
      ElementsAre("hidden_act: \"silu\" / \"relu\"",
                  "layer_types[1]: \"sliding_attention\" / \"full_attention\"",
                  "rope_parameters.rope_theta: 10000 / 1000000.0", "sliding_window: null / 4"));
  EXPECT_THAT(found.undecided, IsEmpty());
  EXPECT_EQ(recorded_fields({found.other[2], found.other[3]}),
            "rope_parameters.rope_theta = 10000, sliding_window = null");
  EXPECT_EQ(live_fields({found.other[3]}), "sliding_window = 4");
}

TEST(ModelConfig, ValuesCountNotHowTheyAreWritten) {
  json live = model();
  live["config"]["rope_parameters"]["rope_theta"] = 10000.0;
  live["config"].erase("sliding_window");
  live["config"]["unknown_here"] = nullptr;
  EXPECT_THAT(compare_configs(model(), live).other, IsEmpty());
  // Neither of which is the other's number.
  live["config"]["rms_norm_eps"] = "1e-06";
  live["config"]["rope_parameters"]["rope_theta"] = true;
  EXPECT_THAT(compare_configs(model(), live).other, SizeIs(2));
}

TEST(ModelConfig, ListsOfOtherLengthsAreComparedAsOne) {
  json live = model();
  live["config"]["layer_types"] = json::array({"full_attention"});
  EXPECT_THAT(texts_of(compare_configs(model(), live).other),
              ElementsAre("layer_types: [\"full_attention\",\"sliding_attention\"] / "
                          "[\"full_attention\"]"));
}

TEST(ModelConfig, AFieldOfOneSideMakesAnotherModelOnlyWithinOneVersion) {
  json live = model();
  live["config"]["rope_parameters"]["factor"] = 8;
  live["config"].erase("hidden_act");
  EXPECT_THAT(
      texts_of(compare_configs(model(), live).other),
      ElementsAre("hidden_act: \"silu\" / not there", "rope_parameters.factor: not there / 8"));
  live["transformers_version"] = "5.18.0";
  live["config"]["rms_norm_eps"] = 1e-5;
  const ConfigComparison found = compare_configs(model(), live);
  EXPECT_THAT(texts_of(found.other), ElementsAre("rms_norm_eps: 1e-06 / 1e-05"));
  EXPECT_THAT(texts_of(found.undecided), ElementsAre("hidden_act: \"silu\" / not there",
                                                     "rope_parameters.factor: not there / 8"));
  live.erase("transformers_version");
  EXPECT_THAT(compare_configs(model(), live).undecided, SizeIs(2)) << "may be another version";
}

TEST(ModelConfig, WhatIsNotKnownIsNoDifference) {
  for (const char* text : {"null", "3", "[]", "{}", R"({"config": null})", R"({"config": "x"})",
                           R"({"config": [1]})"}) {
    const json unknown = json::parse(text);
    const ConfigComparison found = compare_configs(unknown, model());
    EXPECT_FALSE(found.recorded_known) << text;
    EXPECT_TRUE(found.live_known) << text;
    EXPECT_THAT(found.other, IsEmpty()) << text;
    EXPECT_FALSE(compare_configs(model(), unknown).live_known) << text;
    EXPECT_FALSE(compare_configs(unknown, unknown).recorded_known) << text;
  }
}

TEST(ModelConfig, WhatAFileSaysIsBounded) {
  json recorded = model();
  json live = model();
  for (int i = 0; i < 1000; ++i) {
    const std::string name = "a" + std::to_string(1000 + i) + std::string(1000, 'x');
    recorded["config"][name] = std::string(100000, 'y');
    live["config"][name] = i;
  }
  const ConfigComparison found = compare_configs(recorded, live);
  ASSERT_THAT(found.other, SizeIs(17));
  EXPECT_EQ(found.other.back().field, "984 further fields");
  EXPECT_LE(recorded_fields(found.other).size(), 17U * 170);
  EXPECT_TRUE(found.other.front().recorded.ends_with("yyy..."));
}

TEST(ModelConfig, WhatAFileSaysCannotSteerATerminal) {
  json live = model();
  live["config"]["\x1b[31m\n"] = "\x1b[2J\xc3\xa9";
  const ConfigComparison found = compare_configs(model(), live);
  const std::string text = live_fields(found.other);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_NE(text.find("\"\\u001b[2J\\u00e9\""), std::string::npos) << text;
}

}  // namespace
}  // namespace kvtool::analysis
