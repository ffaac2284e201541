#include "kvtool/format/meta.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

using nlohmann::json;

// Byte for byte what kvtool 1.0 wrote into a recording of save, without the device's settings.
constexpr const char* kSavedMeta =
    R"({"created_utc":"2026-11-25T05:00:00Z","device":{"label":"CPU","name":"A CPU",)"
    R"("provenance":{"cpu_isa":"avx512","deterministic_algorithms":false,"limit":null,"list":[1],)"
    R"("threads":2},"type":"cpu"},"kvtool":"1.0.0","model":{"architecture":"llama",)"
    R"("dtype":"bfloat16","exporter_version":"1.0.0","id":"tiny/model","max_positions":2048,)"
    R"("quantized_from":null,"slug":"tiny_model","torch_version":"2.13.0",)"
    R"("transformers_version":"5.17.0","weights_sha256":"ab"},"prompt":{"messages":[{"content":)"
    R"("Hi","role":"user"}],"text":"user: Hi"},"run":{"batch_id":"b","batch_index":1,)"
    R"("batch_size":4,"cache_capacity":20,"ignore_eos":true,"input_index":6,"max_new_tokens":9,)"
    R"("padded_length":12,"padding":2,"row":2,"rows":3}})";

json saved() { return json::parse(kSavedMeta); }

RunMeta saved_run() {
  return {.batch_id = "b",
          .batch_size = 4,
          .batch_index = 1,
          .row = 2,
          .rows = 3,
          .input_index = 6,
          .padded_length = 12,
          .padding = 2,
          .cache_capacity = 20,
          .max_new_tokens = 9,
          .ignore_eos = true};
}

std::string run_error(const json& run) {
  json meta = saved();
  meta["run"] = run;
  try {
    static_cast<void>(checked_run(Meta::parse(meta), 10, "x.kvc"));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
    return error.what();
  }
  return "";
}

// Every place in `value`, replaced in turn by each of a few others.
template <typename Use>
void for_each_mutation(const json& value, Use use) {
  const json others = {nullptr, 7, -1, 1.5, true, "text", json::array({1}), json::object()};
  const json flat = value.flatten();
  std::vector<json::json_pointer> places;
  for (const auto& [path, unused] : flat.items()) {
    for (json::json_pointer place(path); !place.empty(); place = place.parent_pointer()) {
      places.push_back(place);
    }
  }
  for (const json::json_pointer& place : places) {
    for (const json& other : others) {
      json changed = value;
      changed[place] = other;
      use(changed);
    }
    json changed = value;
    json& parent = changed[place.parent_pointer()];
    if (parent.is_object()) parent.erase(place.back());
    use(changed);
  }
}

TEST(Meta, ReadsWhatSaveWrites) {
  const Meta meta = Meta::parse(saved());
  EXPECT_EQ(meta.kvtool, "1.0.0");
  EXPECT_EQ(meta.created_utc, "2026-11-25T05:00:00Z");
  EXPECT_EQ(meta.cache, std::nullopt);
  EXPECT_EQ(meta.model.id, "tiny/model");
  EXPECT_EQ(meta.model.max_positions, 2048u);
  EXPECT_EQ(meta.model.quantized_from, std::nullopt);
  EXPECT_EQ(meta.device.name, "A CPU");
  EXPECT_EQ(meta.setting("threads"), "2");
  EXPECT_EQ(meta.setting("cpu_isa"), "avx512");
  EXPECT_EQ(meta.setting("absent"), std::nullopt);
  EXPECT_EQ(meta.provenance().size(), 3u);  // without null and the list
  EXPECT_EQ(meta.prompt_text, "user: Hi");
  EXPECT_FALSE(meta.replay_of.has_value());
  ASSERT_TRUE(meta.run.has_value());
  EXPECT_EQ(meta.run->row, 2u);
  EXPECT_EQ(checked_run(meta, 10, "x.kvc"), saved_run());
}

TEST(Meta, MadeOfItsPartsHasTheBytesThatItHadBefore) {
  Meta meta = Meta::parse({{"device", {{"provenance", saved()["device"]["provenance"]}}},
                           {"model", {{"quantized_from", nullptr}}},
                           {"prompt", {{"messages", saved()["prompt"]["messages"]}}}});
  meta.kvtool = "1.0.0";
  meta.created_utc = "2026-11-25T05:00:00Z";
  meta.model.id = "tiny/model";
  meta.model.slug = "tiny_model";
  meta.model.architecture = "llama";
  meta.model.dtype = "bfloat16";
  meta.model.weights_sha256 = "ab";
  meta.model.max_positions = 2048;
  meta.model.exporter_version = "1.0.0";
  meta.model.torch_version = "2.13.0";
  meta.model.transformers_version = "5.17.0";
  meta.device = {.label = "CPU", .type = "cpu", .name = "A CPU"};
  meta.prompt_text = "user: Hi";
  meta.run = to_meta(saved_run());
  EXPECT_EQ(meta.to_json().dump(), kSavedMeta);
}

TEST(Meta, KeepsTheModelsConfig) {
  json whole = saved();
  whole["model"]["config"] = {{"rope_parameters", {{"rope_theta", 10000}}}, {"window", nullptr}};
  whole["model"]["config_sha256"] = "cd";
  whole["model"]["graph_sha256"] = "ef";
  const Meta meta = Meta::parse(whole);
  EXPECT_EQ(meta.model.config_sha256, "cd");
  EXPECT_EQ(meta.model.graph_sha256, "ef");
  EXPECT_EQ(meta.to_json(), whole);
  EXPECT_FALSE(Meta::parse(saved()).model.config_sha256) << "an old recording has none";
}

TEST(Meta, NeedsNothingToStartFrom) {
  EXPECT_EQ(Meta{}.to_json().dump(), "{}");
  Meta meta;
  meta.cache = "int8";
  meta.replay_of = MetaReplayOf{.uuid = "u", .device = "", .parallel = false};
  EXPECT_EQ(meta.to_json().dump(),
            R"({"cache":"int8","replay_of":{"device":"","parallel":false,"uuid":"u"}})");
}

TEST(Meta, KeepsWhatItDoesNotKnow) {
  json meta = saved();
  meta["later"] = {{"a", 1}};
  meta["run"]["later"] = "b";
  meta["model"]["later"] = json::array();
  EXPECT_EQ(Meta::parse(meta).to_json(), meta);
}

TEST(Meta, MutationsNeverThrowAndSurviveTheRoundTrip) {
  int mutations = 0;
  for_each_mutation(saved(), [&](const json& changed) {
    ++mutations;
    ASSERT_EQ(Meta::parse(changed).to_json(), changed);
    try {
      static_cast<void>(checked_run(Meta::parse(changed), 10, "x.kvc"));
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kCorrupt) << changed;
    }
  });
  EXPECT_GT(mutations, 300);
  for (const json& other : {json(), json(5), json("x"), json::array()}) {
    EXPECT_EQ(Meta::parse(other).model.id, std::nullopt);
  }
}

TEST(Meta, MistypedMembersAreEmpty) {
  json meta = saved();
  meta["model"]["id"] = 5;
  meta["device"] = "CPU";
  meta["prompt"] = json::array();
  meta["replay_of"] = 5;
  meta["run"]["row"] = -1;
  const Meta parsed = Meta::parse(meta);
  EXPECT_EQ(parsed.model.id, std::nullopt);
  EXPECT_EQ(parsed.device.label, std::nullopt);
  EXPECT_TRUE(parsed.provenance().empty());
  EXPECT_EQ(parsed.prompt_text, std::nullopt);
  EXPECT_TRUE(parsed.replay_of.has_value());  // a replay it is, whatever it says of it
  EXPECT_EQ(parsed.run->row, std::nullopt);
  EXPECT_EQ(parsed.run->rows, 3u);
}

TEST(Meta, ChangesAndRemovalsAreWritten) {
  Meta meta = Meta::parse(saved());
  meta.model.id = "other/model";
  meta.run.reset();
  meta.prompt_text.reset();
  json expected = saved();
  expected["model"]["id"] = "other/model";
  expected.erase("run");
  expected["prompt"].erase("text");
  EXPECT_EQ(meta.to_json(), expected);
}

TEST(Meta, RunThatCannotBeIsCorrupt) {
  EXPECT_FALSE(checked_run(Meta{}, 10, "x.kvc").has_value());
  EXPECT_EQ(run_error(saved()["run"]), "");
  EXPECT_EQ(run_error(5), "x.kvc: META.run is not an object");
  EXPECT_EQ(run_error(json::object()), "x.kvc: META.run.batch_id is missing or not a string");
  const auto with = [](const char* name, json value) {
    json run = saved()["run"];
    run[name] = std::move(value);
    return run_error(run);
  };
  EXPECT_EQ(with("rows", -3), "x.kvc: META.run.rows is missing or not a number");
  EXPECT_EQ(with("rows", 2u), "x.kvc: META.run says row 2 of 2");
  EXPECT_EQ(with("rows", 65537u), "x.kvc: META.run says row 2 of 65537");
  EXPECT_EQ(with("padded_length", 9u),
            "x.kvc: META.run says 9 padded positions in a cache of 20 for a prompt of 10");
  EXPECT_EQ(with("cache_capacity", 11u),
            "x.kvc: META.run says 12 padded positions in a cache of 11 for a prompt of 10");
  EXPECT_EQ(with("input_index", 1u), "x.kvc: META.run says input 1 in row 2");
}

RunMeta second_of_two() {
  return {.batch_id = "a",
          .batch_size = 2,
          .row = 1,
          .rows = 2,
          .input_index = 1,
          .padded_length = 5,
          .cache_capacity = 12};
}

nlohmann::json json_of(const RunMeta& run) {
  Meta meta;
  meta.run = to_meta(run);
  return meta.to_json()["run"];
}

std::optional<RunMeta> checked_run_of(const nlohmann::json& meta, std::uint64_t prompt_length,
                                      const std::string& subject) {
  return checked_run(Meta::parse(meta), prompt_length, subject);
}

TEST(RunMeta, RoundTrips) {
  RunMeta run = second_of_two();
  run.padding = 2;
  run.max_new_tokens = 8;
  run.ignore_eos = true;
  EXPECT_EQ(checked_run_of({{"run", json_of(run)}}, 3, "x.kvc"), run);
  EXPECT_EQ(checked_run_of(nlohmann::json::object(), 3, "x.kvc"), std::nullopt);
  EXPECT_EQ(checked_run_of(nullptr, 3, "x.kvc"), std::nullopt);
}

TEST(RunMeta, RefusesWhatCannotBe) {
  const nlohmann::json good = json_of(second_of_two());
  const auto refuses = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json run = good;
    run[key] = value;
    EXPECT_THROW(static_cast<void>(checked_run_of({{"run", run}}, 3, "x.kvc")), Error) << key;
  };
  refuses("rows", 0);
  refuses("rows", 1000000000);
  refuses("row", 2);
  refuses("row", -1);
  refuses("row", "1");
  refuses("padded_length", 2);
  refuses("cache_capacity", 4);
  refuses("cache_capacity", UINT64_MAX);
  refuses("batch_id", 7);
  refuses("input_index", 0);
  EXPECT_THROW(static_cast<void>(checked_run_of({{"run", 3}}, 3, "x.kvc")), Error);
}

TEST(Meta, TextAtFollowsPaths) {
  EXPECT_EQ(text_at(saved(), "device.provenance.threads"), "2");
  EXPECT_EQ(text_at(saved(), "model.id"), "tiny/model");
  EXPECT_EQ(text_at(saved(), "model.quantized_from"), std::nullopt);  // null
  EXPECT_EQ(text_at(saved(), "device.provenance.list"), std::nullopt);
  EXPECT_EQ(text_at(saved(), "model.id.deeper"), std::nullopt);
  EXPECT_EQ(text_at(json(5), "model"), std::nullopt);
}

}  // namespace
}  // namespace kvtool::format
