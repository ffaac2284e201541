#include "engine/key_rotations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/error_of.h"

namespace kvtool::engine {
namespace {

using testing::HasSubstr;

nlohmann::json rotary() {
  return {{"rotations",
           {{{"offset", 2}, {"dims", 4}, {"pairing", "interleaved"}, {"inv_freq", {1.0, 0.25}}},
            {{"offset", 0}, {"dims", 2}, {"pairing", "halves"}, {"inv_freq", {-0.5}}}}},
          {"layers", {0, nullptr, 1, 0}}};
}

// Of a model of four layers with keys of six channels.
ModelInfo model_with(const nlohmann::json& metadata) {
  ModelInfo info;
  info.path = "m.pt";
  info.model_id = "Org/Model";
  info.geometry = format::Geometry(
      std::vector<format::LayerGeometry>(4, {DType::kFloat32, DType::kFloat32, 1, 6, 6}));
  info.metadata_json = metadata.dump();
  return info;
}

TEST(KeyRotations, AreThoseOfTheModelFile) {
  const KeyRotations found = key_rotations_of(model_with({{"rotary", rotary()}}));
  EXPECT_EQ(found.why_none, "");
  ASSERT_EQ(found.layers.size(), 4U);
  EXPECT_EQ(found.layers[0], found.layers[3]);
  EXPECT_EQ(found.layers[1], nullptr);
  EXPECT_EQ(found.layers[0]->offset, 2);
  EXPECT_EQ(found.layers[0]->dims, 4);
  EXPECT_EQ(found.layers[0]->pairing, KeyRotation::Pairing::kInterleaved);
  EXPECT_EQ(found.layers[0]->inv_freq, (std::vector<double>{1.0, 0.25}));
  EXPECT_EQ(found.layers[2]->pairing, KeyRotation::Pairing::kHalves);
  EXPECT_EQ(found.layers[2]->inv_freq, (std::vector<double>{-0.5}));
}

TEST(KeyRotations, SayWhyThereAreNone) {
  const KeyRotations without = key_rotations_of(model_with(nlohmann::json::object()));
  EXPECT_TRUE(without.layers.empty());
  EXPECT_THAT(without.why_none, HasSubstr("Org/Model was exported before"));
  EXPECT_THAT(without.why_none, HasSubstr("export it again"));
  const KeyRotations other =
      key_rotations_of(model_with({{"rotary", {{"reason", "it adds its positions"}}}}));
  EXPECT_TRUE(other.layers.empty());
  EXPECT_EQ(other.why_none, "Org/Model: it adds its positions");
}

TEST(KeyRotations, RefuseWhatTheLayersCannotHave) {
  const auto message = [](const nlohmann::json& changed) {
    const Error error =
        error_of([&] { std::ignore = key_rotations_of(model_with({{"rotary", changed}})); });
    EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
    return std::string(error.what());
  };
  nlohmann::json json = rotary();
  json["rotations"][0]["offset"] = 3;
  EXPECT_THAT(message(json), HasSubstr("channels 3 to 6 of a layer that has 6"));
  json = rotary();
  json["rotations"][0]["dims"] = 6;
  EXPECT_THAT(message(json), HasSubstr("with 2 frequencies is none"));
  json = rotary();
  json["rotations"][1]["pairing"] = "thirds";
  EXPECT_THAT(message(json), HasSubstr("pairing \"thirds\""));
  json = rotary();
  json["layers"] = {0, 1};
  EXPECT_THAT(message(json), HasSubstr("it says 2 layers of 4"));
  json = rotary();
  json["layers"][3] = 2;
  EXPECT_THAT(message(json), HasSubstr("damaged"));
  json = rotary();
  json.erase("layers");
  EXPECT_THAT(message(json), HasSubstr("m.pt: rotary of its kvtool.json"));
}

}  // namespace
}  // namespace kvtool::engine
