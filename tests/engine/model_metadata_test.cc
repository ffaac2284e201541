#include "engine/model_metadata.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

using testing::HasSubstr;

nlohmann::json metadata() {
  return {{"contract_version", 1},
          {"model_id", "Org/Model"},
          {"model_slug", "org_model"},
          {"architecture", "LlamaForCausalLM"},
          {"dtype", "bfloat16"},
          {"logits_dtype", "bfloat16"},
          {"vocab_size", 100},
          {"max_positions", 2048},
          {"eos_token_ids", {2, 3}},
          {"weights_sha256", std::string(64, 'a')},
          {"layers",
           {{{"num_heads", 8},
             {"num_kv_heads", 2},
             {"key_dim", 24},
             {"value_dim", 16},
             {"key_dtype", "bfloat16"},
             {"value_dtype", "float32"}}}}};
}

std::string message_of(const nlohmann::json& json) {
  try {
    (void)parse_model_metadata("m.pt", json.dump());
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
    return error.what();
  }
  return "accepted";
}

TEST(ModelMetadata, ReadsWhatTheEngineNeeds) {
  const ModelInfo info = parse_model_metadata("m.pt", metadata().dump());
  EXPECT_EQ(info.slug, "org_model");
  EXPECT_EQ(info.logits_dtype, DType::kBFloat16);
  EXPECT_EQ(info.eos_token_ids, (std::vector<std::int32_t>{2, 3}));
  ASSERT_EQ(info.geometry.num_layers(), 1U);
  EXPECT_EQ(info.geometry.layer(0).key_dim, 24U);
  EXPECT_EQ(info.geometry.layer(0).value_dtype, DType::kFloat32);
  EXPECT_EQ(info.weights_sha256[0], 0xaa);
}

TEST(ModelMetadata, TakesAConfigAndFilesFromBeforeThereWasOne) {
  auto json = metadata();
  EXPECT_EQ(message_of(json), "accepted");
  json["config"] = {{"rope_parameters", {{"rope_theta", 10000}}}};
  json["config_sha256"] = std::string(64, 'c');
  json["graph_sha256"] = std::string(64, 'd');
  EXPECT_EQ(message_of(json), "accepted");
  EXPECT_EQ(parse_model_metadata("m.pt", json.dump()).metadata_json, json.dump());
}

TEST(ModelMetadata, RefusesAConfigThatNoRecordingHolds) {
  auto json = metadata();
  json["config"] = "x";
  EXPECT_THAT(message_of(json), HasSubstr("m.pt: config is not an object"));
  json["config"] = {{"table", std::string(256 * 1024, 'x')}};
  EXPECT_THAT(message_of(json), HasSubstr("at most 262144 fit into a recording"));
  nlohmann::json nested = 1;
  for (int i = 0; i < 8; ++i) nested = {{"a", nested}};
  json["config"] = nested;
  EXPECT_EQ(message_of(json), "accepted");
  json["config"] = {{"a", nested}};
  EXPECT_THAT(message_of(json), HasSubstr("nested deeper than 8"));
  json.erase("config");
  json["graph_sha256"] = "ab";
  EXPECT_THAT(message_of(json), HasSubstr("graph_sha256 is not 64 hex digits"));
  json["graph_sha256"] = 3;
  EXPECT_THAT(message_of(json), HasSubstr("damaged"));
}

TEST(ModelMetadata, RefusesAnotherContract) {
  auto json = metadata();
  json["contract_version"] = 2;
  EXPECT_THAT(message_of(json), HasSubstr("m.pt: model contract version 2, this kvtool knows 1"));
}

TEST(ModelMetadata, NamesAMissingField) {
  auto json = metadata();
  json.erase("vocab_size");
  EXPECT_THAT(message_of(json), HasSubstr("vocab_size"));
}

TEST(ModelMetadata, RefusesASlugThatNamesNoFolder) {
  for (const char* slug : {"", "..", "a/b", "Org", "a b", "\xE6\xA8\xA1"}) {
    auto json = metadata();
    json["model_slug"] = slug;
    EXPECT_THAT(message_of(json), HasSubstr("of the model 'Org/Model' can name no folder")) << slug;
    EXPECT_THAT(message_of(json), HasSubstr("--model-id"));
  }
}

TEST(ModelMetadata, RefusesAnUnknownDtype) {
  auto json = metadata();
  json["layers"][0]["key_dtype"] = "int4";
  EXPECT_THAT(message_of(json), HasSubstr("int4"));
}

}  // namespace
}  // namespace kvtool::engine
