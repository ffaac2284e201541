#include "kvtool/analysis/model_config.h"

#include <gmock/gmock.h>

#include <limits>
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

// ---- Mixture of experts ----------------------------------------------------------------

struct RoutedCase {
  const char* name;
  const char* config;
  std::vector<bool> routed;
};

class RoutedLayersOf : public testing::TestWithParam<RoutedCase> {};

std::vector<bool> routed_layers_of(const json& config) {
  return routed_layers({{"model", {{"config", config}}}});
}

TEST_P(RoutedLayersOf, AreThoseOfTheModelsOwnClass) {
  EXPECT_EQ(routed_layers_of(json::parse(GetParam().config)), GetParam().routed);
}

// Fields as the exporter writes them; which layers are routed was seen on the modules that
// transformers 5.17.0 makes of them.
INSTANTIATE_TEST_SUITE_P(
    Families, RoutedLayersOf,
    testing::Values(
        RoutedCase{"Llama", R"({"num_hidden_layers": 2})", {}},
        RoutedCase{"Mixtral",
                   R"({"num_experts_per_tok": 2, "num_hidden_layers": 3, "num_local_experts": 8})",
                   {true, true, true}},
        RoutedCase{
            "GptOss",
            R"({"num_experts_per_tok": 4, "num_hidden_layers": 2, "num_local_experts": 128})",
            {true, true}},
        RoutedCase{"Olmoe",
                   R"({"num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 2})",
                   {true, true}},
        RoutedCase{"Qwen2Moe",
                   R"({"decoder_sparse_step": 2, "mlp_only_layers": [3],
                                   "num_experts": 60, "num_hidden_layers": 6})",
                   {false, true, false, false, false, true}},
        RoutedCase{"Qwen3Moe",
                   R"({"decoder_sparse_step": 1, "mlp_only_layers": [0, 4],
                                   "num_hidden_layers": 5, "num_local_experts": 128})",
                   {false, true, true, true, false}},
        RoutedCase{"DeepseekV3",
                   R"({"first_k_dense_replace": 3, "n_routed_experts": 256,
                                     "num_hidden_layers": 5})",
                   {false, false, false, true, true}},
        RoutedCase{"Ernie45Moe",
                   R"({"moe_layer_end_index": 6, "moe_layer_interval": 2,
                                     "moe_layer_start_index": 2, "moe_num_experts": 64,
                                     "num_hidden_layers": 8})",
                   {false, false, false, true, false, true, false, false}},
        RoutedCase{"Ernie45MoeToTheLast",
                   R"({"moe_layer_end_index": -1, "moe_layer_interval": 1,
                                              "moe_layer_start_index": 1, "moe_num_experts": 64,
                                              "num_hidden_layers": 3})",
                   {false, true, true}},
        RoutedCase{"Afmoe",
                   R"({"num_dense_layers": 2, "num_experts": 64, "num_hidden_layers": 4})",
                   {false, false, true, true}},
        RoutedCase{"Glm4MoeLite",
                   R"({"mlp_layer_types": ["dense", "sparse", "sparse"],
                                      "n_routed_experts": 64, "num_hidden_layers": 3})",
                   {false, true, true}},
        RoutedCase{"Gemma4",
                   R"({"enable_moe_block": true, "num_experts": 8, "num_hidden_layers": 2})",
                   {true, true}},
        RoutedCase{"Gemma4WithoutExperts",
                   R"({"enable_moe_block": false, "num_experts": 8, "num_hidden_layers": 2})",
                   {}},
        RoutedCase{"Aria", R"({"moe_num_experts": 8, "num_hidden_layers": 2})", {true, true}},
        RoutedCase{"OneExpertIsNoChoice", R"({"num_experts": 1, "num_hidden_layers": 2})", {}}),
    [](const auto& row) { return std::string(row.param.name); });

TEST(RoutedLayers, OfWhatSaysNothingAreNone) {
  for (const char* text :
       {"null", "3", "[]", "{}", R"({"model": null})", R"({"model": []})",
        R"({"model": {"config": null}})", R"({"model": {"config": [8]}})",
        R"({"model": {"config": {"num_experts": 8}}})",
        R"({"model": {"config": {"num_experts": "8", "num_hidden_layers": 2}}})",
        R"({"model": {"config": {"num_experts": null, "num_hidden_layers": 2}}})",
        R"({"model": {"config": {"num_experts": 8.5, "num_hidden_layers": 2}}})",
        R"({"model": {"config": {"num_experts": [8, 8], "num_hidden_layers": 2}}})",
        R"({"model": {"config": {"num_experts": -8, "num_hidden_layers": 2}}})",
        R"({"model": {"config": {"num_experts": 8, "num_hidden_layers": -2}}})",
        R"({"model": {"config": {"num_experts": 8, "num_hidden_layers": "2"}}})"}) {
    EXPECT_THAT(routed_layers(json::parse(text)), IsEmpty()) << text;
  }
}

// A file may say anything.
TEST(RoutedLayers, AreBoundedWhateverTheNumbers) {
  const std::uint64_t huge = std::numeric_limits<std::uint64_t>::max();
  const std::int64_t large = std::numeric_limits<std::int64_t>::max();
  json config{{"num_experts", 8}, {"num_hidden_layers", large}};
  EXPECT_THAT(routed_layers_of(config), SizeIs(4096));
  config["num_hidden_layers"] = huge;
  EXPECT_THAT(routed_layers_of(config).size(), testing::Le(4096U));
  config["num_hidden_layers"] = 3;
  const std::vector<bool> all{true, true, true};
  for (const char* field : {"decoder_sparse_step", "moe_layer_interval"}) {
    for (const json& value : {json(0), json(-1), json(huge), json("2"), json(nullptr)}) {
      json hostile = config;
      hostile[field] = value;
      EXPECT_EQ(routed_layers_of(hostile), all) << field << value;
    }
    json never = config;
    never[field] = large;
    EXPECT_EQ(routed_layers_of(never), std::vector<bool>(3, false));
  }
  json hostile = config;
  hostile["mlp_only_layers"] = json::array({1, -1, large, huge, "2", nullptr, 0.5, json::array()});
  EXPECT_EQ(routed_layers_of(hostile), (std::vector<bool>{true, false, true}));
  hostile = config;
  hostile["mlp_layer_types"] = json::array({"sparse", 7});
  EXPECT_EQ(routed_layers_of(hostile), (std::vector<bool>{true, false, false}));
  hostile["mlp_layer_types"] = "sparse";
  EXPECT_EQ(routed_layers_of(hostile), all);
  hostile = config;
  hostile["first_k_dense_replace"] = large;
  EXPECT_EQ(routed_layers_of(hostile), std::vector<bool>(3, false));
  hostile["first_k_dense_replace"] = -large;
  EXPECT_EQ(routed_layers_of(hostile), all);
}

}  // namespace
}  // namespace kvtool::analysis
