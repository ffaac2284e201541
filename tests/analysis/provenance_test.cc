#include "kvtool/analysis/provenance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace kvtool::analysis {
namespace {

using nlohmann::json;

json cpu_meta() {
  return json::parse(R"({
    "kvtool": "0.2.0",
    "created_utc": "2026-01-02T03:04:05Z",
    "model": {"id": "org/model", "architecture": "LlamaForCausalLM", "dtype": "bfloat16",
              "weights_sha256": "57eeee0ebd30a76b5dbae3da4657cf4e6732fc9bfc8dad00ca73acef0a9ce13f",
              "torch_version": "2.13.0", "transformers_version": "5.17.0",
              "exporter_version": "0.2.0"},
    "device": {"label": "CPU", "type": "cpu", "name": "Some CPU",
               "provenance": {"torch_version": "2.13.0", "cpu_model": "Some CPU",
                              "cpu_isa": "AVX512", "onednn_max_cpu_isa": null,
                              "mkl_enable_instructions": null, "threads": 2,
                              "deterministic_algorithms": false}},
    "run": {"batch_id": "a", "rows": 4, "padded_length": 40, "cache_capacity": 100}})");
}

json cuda_meta() {
  json meta = cpu_meta();
  meta["device"]["type"] = "cuda";
  meta["device"]["name"] = "NVIDIA H200";
  meta["device"]["provenance"].update(
      {{"driver_version", "580.1"}, {"compute_capability", "9.0"}, {"tf32_matmul", false}});
  return meta;
}

std::vector<std::string> keys_of(const std::vector<ProvenanceDifference>& differences) {
  std::vector<std::string> keys;
  for (const ProvenanceDifference& each : differences) keys.push_back(each.key);
  return keys;
}

using Keys = std::vector<std::string>;

TEST(Provenance, EqualRecordsHaveNoDifference) {
  EXPECT_TRUE(compare_provenance(cpu_meta(), cpu_meta()).empty());
  EXPECT_TRUE(compare_provenance(cuda_meta(), cuda_meta()).empty());
}

TEST(Provenance, WhatCannotExplainAMismatchIsNoDifference) {
  json live = cpu_meta();
  live["created_utc"] = "2027-01-02T03:04:05Z";
  live["run"]["batch_id"] = "b";
  live["device"]["label"] = "laptop";
  EXPECT_TRUE(compare_provenance(cpu_meta(), live).empty());
}

TEST(Provenance, DifferenceHasKeyLabelBothTextsAndAReason) {
  json live = cpu_meta();
  live["device"]["provenance"]["torch_version"] = "2.14.1";
  const auto differences = compare_provenance(cpu_meta(), live);
  ASSERT_EQ(differences.size(), 1U);
  EXPECT_EQ(differences[0].key, "device.provenance.torch_version");
  EXPECT_EQ(differences[0].label, "torch");
  EXPECT_EQ(differences[0].recorded, "2.13.0");
  EXPECT_EQ(differences[0].live, "2.14.1");
  EXPECT_EQ(differences[0].why, "kernels of another version may round differently");
}

TEST(Provenance, ListsWeightsFirstAndTheBatchShapeLast) {
  json live = cpu_meta();
  live["run"]["rows"] = 1;
  live["device"]["provenance"]["threads"] = 1;
  live["device"]["provenance"]["cpu_isa"] = "AVX2";
  live["model"]["transformers_version"] = "5.0.0";
  live["model"]["weights_sha256"] = "0123456789abcdef";
  EXPECT_EQ(keys_of(compare_provenance(cpu_meta(), live)),
            (Keys{"model.weights_sha256", "model.transformers_version", "device.provenance.cpu_isa",
                  "device.provenance.threads", "run.rows"}));
}

// Recordings from before there was a choice name none.
TEST(Provenance, ACacheThatIsNotNamedIsContiguous) {
  json live = cpu_meta();
  live["cache"] = "contiguous";
  EXPECT_TRUE(compare_provenance(cpu_meta(), live).empty());
  live["cache"] = "int8";
  const auto differences = compare_provenance(cpu_meta(), live);
  ASSERT_EQ(keys_of(differences), Keys{"cache"});
  EXPECT_EQ(differences[0].label, "K/V cache");
  EXPECT_EQ(differences[0].recorded, "contiguous");
  EXPECT_EQ(differences[0].live, "int8");
}

TEST(Provenance, DigestsAreShortened) {
  json live = cpu_meta();
  live["model"]["weights_sha256"] = "0123456789abcdef";
  const auto differences = compare_provenance(cpu_meta(), live);
  ASSERT_EQ(differences.size(), 1U);
  EXPECT_EQ(differences[0].recorded, "57eeee0ebd30...");
  EXPECT_EQ(differences[0].live, "0123456789ab...");
}

TEST(Provenance, ScalarsOfEveryTypeBecomeText) {
  json live = cpu_meta();
  live["device"]["provenance"]["threads"] = 16;
  live["device"]["provenance"]["deterministic_algorithms"] = true;
  const auto differences = compare_provenance(cpu_meta(), live);
  ASSERT_EQ(differences.size(), 2U);
  EXPECT_EQ(differences[0].recorded, "2");
  EXPECT_EQ(differences[0].live, "16");
  EXPECT_EQ(differences[1].live, "true");
}

TEST(Provenance, WhatOneSideDoesNotKnowIsUnknown) {
  json recorded = cpu_meta();
  recorded["device"]["provenance"].erase("threads");
  const auto differences = compare_provenance(recorded, cpu_meta());
  ASSERT_EQ(differences.size(), 1U);
  EXPECT_EQ(differences[0].recorded, "unknown");
  EXPECT_EQ(differences[0].live, "2");
}

// An older recording has no digest in META; the header's is checked elsewhere.
TEST(Provenance, WeightsThatOneSideDoesNotNameAreNoDifference) {
  json recorded = cpu_meta();
  recorded["model"].erase("weights_sha256");
  EXPECT_TRUE(compare_provenance(recorded, cpu_meta()).empty());
}

TEST(Provenance, FieldsOfTheConfigAreNamedBehindTheWeights) {
  json recorded = cpu_meta();
  recorded["model"]["config"] = {{"rms_norm_eps", 1e-6}, {"rope_parameters", {{"theta", 10000}}}};
  recorded["model"]["config_sha256"] = std::string(64, 'a');
  recorded["model"]["graph_sha256"] = std::string(64, 'b');
  json live = recorded;
  EXPECT_TRUE(compare_provenance(recorded, live).empty());
  live["model"]["weights_sha256"] = "0123456789abcdef";
  live["model"]["config"]["rope_parameters"]["theta"] = 1000000;
  live["model"]["config_sha256"] = std::string(64, 'c');
  live["model"]["graph_sha256"] = std::string(64, 'd');
  live["model"]["dtype"] = "float16";
  const auto differences = compare_provenance(recorded, live);
  ASSERT_EQ(keys_of(differences),
            (Keys{"model.weights_sha256", "model.config.rope_parameters.theta",
                  "model.graph_sha256", "model.dtype"}));
  EXPECT_EQ(differences[1].label, "config rope_parameters.theta");
  EXPECT_EQ(differences[1].recorded, "10000");
  EXPECT_EQ(differences[1].live, "1000000");
  EXPECT_EQ(differences[1].why, "equal weights of another config are another model");
  EXPECT_EQ(differences[2].label, "traced graph");
  EXPECT_EQ(differences[2].recorded, "bbbbbbbbbbbb...");
}

TEST(Provenance, AFieldOfOneVersionAloneIsNamed) {
  json recorded = cpu_meta();
  recorded["model"]["config"] = {{"rms_norm_eps", 1e-6}};
  json live = recorded;
  live["model"]["config"]["new_setting"] = 2;
  live["model"]["transformers_version"] = "5.18.0";
  const auto differences = compare_provenance(recorded, live);
  ASSERT_EQ(keys_of(differences), (Keys{"model.config.new_setting", "model.transformers_version"}));
  EXPECT_EQ(differences[0].recorded, "not there");
  EXPECT_EQ(differences[0].live, "2");
  EXPECT_NE(differences[0].why, "equal weights of another config are another model");
}

TEST(Provenance, AConfigThatOneSideDoesNotKnowCannotBeTold) {
  json live = cpu_meta();
  live["model"]["config"] = {{"rms_norm_eps", 1e-6}};
  live["model"]["config_sha256"] = std::string(64, 'c');
  const auto differences = compare_provenance(cpu_meta(), live);
  ASSERT_EQ(keys_of(differences), Keys{"model.config"});
  EXPECT_EQ(differences[0].recorded, "unknown");
  EXPECT_EQ(differences[0].live, "cccccccccccc...");
  EXPECT_NE(differences[0].why.find("cannot be told"), std::string::npos);
  live["model"].erase("config_sha256");
  EXPECT_EQ(compare_provenance(live, cpu_meta())[0].recorded, "known");
}

TEST(Provenance, WhatNeitherSideKnowsIsNoDifference) {
  json recorded = cpu_meta();
  recorded["device"].erase("provenance");
  json live = recorded;
  live["device"]["provenance"] = json::object();
  EXPECT_TRUE(compare_provenance(recorded, live).empty());
}

TEST(Provenance, UnsetVariableIsNotSetRatherThanUnknown) {
  json live = cpu_meta();
  live["device"]["provenance"]["onednn_max_cpu_isa"] = "AVX2";
  const auto differences = compare_provenance(cpu_meta(), live);
  ASSERT_EQ(differences.size(), 1U);
  EXPECT_EQ(differences[0].recorded, "not set");
}

TEST(Provenance, MembersOfAnotherTypeCountAsUnknown) {
  json recorded = cpu_meta();
  recorded["device"]["provenance"]["threads"] = json::array({2});
  recorded["model"] = "a string";
  recorded["run"] = json::array({1, 2});
  const auto differences = compare_provenance(recorded, cpu_meta());
  ASSERT_FALSE(differences.empty());
  for (const ProvenanceDifference& each : differences) EXPECT_EQ(each.recorded, "unknown");
}

TEST(Provenance, RecordsThatAreNoObjectsAreTaken) {
  for (const char* text : {"null", "[]", "3", "\"x\"", "{}", R"({"device": 4})",
                           R"({"device": {"provenance": [1]}})"}) {
    EXPECT_TRUE(compare_provenance(json::parse(text), json::parse(text)).empty()) << text;
    EXPECT_FALSE(compare_provenance(json::parse(text), cpu_meta()).empty()) << text;
    EXPECT_FALSE(compare_provenance(cpu_meta(), json::parse(text)).empty()) << text;
  }
}

TEST(Provenance, AnotherKindOfDeviceIsNamedWithoutItsOwnSettings) {
  EXPECT_EQ(keys_of(compare_provenance(cpu_meta(), cuda_meta())),
            (Keys{"device.type", "device.name"}));
}

TEST(Provenance, Tf32OfAGpuExplainsADifferenceFromACpu) {
  json live = cuda_meta();
  live["device"]["provenance"]["tf32_matmul"] = true;
  EXPECT_EQ(keys_of(compare_provenance(cpu_meta(), live)),
            (Keys{"device.type", "device.name", "device.provenance.tf32_matmul"}));
}

TEST(Provenance, HostCpuExplainsNothingBetweenGpus) {
  json live = cuda_meta();
  live["device"]["provenance"]["cpu_isa"] = "AVX2";
  live["device"]["provenance"]["threads"] = 64;
  live["device"]["provenance"]["driver_version"] = "590.2";
  EXPECT_EQ(keys_of(compare_provenance(cuda_meta(), live)),
            (Keys{"device.provenance.driver_version"}));
}

TEST(Provenance, CpuIsNamedOnce) {
  json live = cpu_meta();
  live["device"]["name"] = "Other CPU";
  live["device"]["provenance"]["cpu_model"] = "Other CPU";
  EXPECT_EQ(keys_of(compare_provenance(cpu_meta(), live)), (Keys{"device.provenance.cpu_model"}));
}

TEST(Provenance, OtherScalarsOfBothSidesAreListedWithAGeneralReason) {
  json recorded = cpu_meta();
  json live = cpu_meta();
  recorded["device"]["provenance"]["blas"] = "mkl";
  live["device"]["provenance"]["blas"] = "openblas";
  live["device"]["provenance"]["new_setting"] = 1;
  recorded["device"]["provenance"]["list"] = json::array({1});
  live["device"]["provenance"]["list"] = json::array({2});
  const auto differences = compare_provenance(recorded, live);
  ASSERT_EQ(differences.size(), 1U);
  EXPECT_EQ(differences[0].key, "device.provenance.blas");
  EXPECT_EQ(differences[0].label, "blas");
  EXPECT_FALSE(differences[0].why.empty());
}

json with_environment(const json& environment) {
  json meta = cpu_meta();
  meta["device"]["provenance"]["environment"] = environment;
  return meta;
}

TEST(Provenance, VariablesThatChangeKernelsAreNamed) {
  const auto found = compare_provenance(
      with_environment({{"MKL_CBWR", "AVX2"}}),
      with_environment({{"MKL_CBWR", "COMPATIBLE"}, {"ONEDNN_DEFAULT_FPMATH_MODE", "BF16"}}));
  ASSERT_EQ(keys_of(found), (Keys{"device.provenance.environment.MKL_CBWR",
                                  "device.provenance.environment.ONEDNN_DEFAULT_FPMATH_MODE"}));
  EXPECT_EQ(found[0].label, "MKL_CBWR");
  EXPECT_EQ(found[0].recorded, "AVX2");
  EXPECT_EQ(found[0].live, "COMPATIBLE");
  EXPECT_EQ(found[1].recorded, "not set");
  EXPECT_EQ(found[1].live, "BF16");
  EXPECT_EQ(found[1].why, "lets float32 products be computed in fewer bits");
}

TEST(Provenance, OneDnnsSpellingsAreOneVariable) {
  const json older = with_environment({{"DNNL_MAX_CPU_ISA", "AVX2"}});
  EXPECT_TRUE(
      compare_provenance(older, with_environment({{"ONEDNN_MAX_CPU_ISA", "AVX2"}})).empty());
  // The newer spelling is read where both are set.
  EXPECT_TRUE(compare_provenance(older, with_environment({{"DNNL_MAX_CPU_ISA", "SSE41"},
                                                          {"ONEDNN_MAX_CPU_ISA", "AVX2"}}))
                  .empty());
  const auto found = compare_provenance(with_environment(json::object()), older);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].label, "DNNL_MAX_CPU_ISA");
}

TEST(Provenance, AVariableExplainsOnlyTheDevicesThatReadIt) {
  json recorded = cuda_meta();
  json live = cuda_meta();
  recorded["device"]["provenance"]["environment"] = json::object();
  live["device"]["provenance"]["environment"] = {{"MKL_CBWR", "AVX2"},
                                                 {"NVIDIA_TF32_OVERRIDE", "1"}};
  EXPECT_EQ(keys_of(compare_provenance(recorded, live)),
            Keys{"device.provenance.environment.NVIDIA_TF32_OVERRIDE"});
  EXPECT_TRUE(compare_provenance(with_environment(json::object()),
                                 with_environment({{"NVIDIA_TF32_OVERRIDE", "1"}}))
                  .empty());
}

TEST(Provenance, ARecordingWithoutVariablesCannotTell) {
  EXPECT_TRUE(compare_provenance(cpu_meta(), with_environment(json::object())).empty());
  const auto found = compare_provenance(
      cpu_meta(), with_environment({{"MKL_CBWR", "AVX2"}, {"OMP_DYNAMIC", "true"}}));
  ASSERT_EQ(keys_of(found), Keys{"device.provenance.environment"});
  EXPECT_EQ(found[0].recorded, "not recorded");
  EXPECT_EQ(found[0].live, "MKL_CBWR=AVX2, OMP_DYNAMIC=true");
  // Under its own name it was recorded always.
  EXPECT_EQ(
      keys_of(compare_provenance(cpu_meta(), with_environment({{"ONEDNN_MAX_CPU_ISA", "AVX2"}}))),
      Keys{"device.provenance.onednn_max_cpu_isa"});
}

TEST(Provenance, AVariableOfANewerKvtoolIsNamed) {
  const auto found = compare_provenance(with_environment(json::object()),
                                        with_environment({{"NEW_LIBRARY_MODE", "fast"}}));
  ASSERT_EQ(keys_of(found), Keys{"device.provenance.environment.NEW_LIBRARY_MODE"});
  EXPECT_EQ(found[0].why, "a variable that this kvtool does not know");
}

std::vector<ProvenanceDifference> differences_of(const std::vector<std::pair<json, json>>& inputs) {
  ProvenanceSummary summary;
  for (const auto& [recorded, live] : inputs) summary.add(compare_provenance(recorded, live));
  return summary.build();
}

json padded_to(const json& length) {
  json meta = cpu_meta();
  meta["run"]["padded_length"] = length;
  return meta;
}

TEST(ProvenanceSummary, HasTheRangesOfWhatEveryInputHasItsOwnValueFor) {
  const auto found = differences_of({{padded_to(40), padded_to(24)},
                                     {padded_to(40), padded_to(13)},
                                     {padded_to(40), padded_to(40)},
                                     {padded_to(87), padded_to(30)}});
  ASSERT_EQ(keys_of(found), Keys{"run.padded_length"});
  EXPECT_EQ(found[0].recorded, "40 to 87");
  EXPECT_EQ(found[0].live, "13 to 30");
  EXPECT_EQ(found[0].inputs, 3U);
  EXPECT_EQ(found[0].title(), "padded prompt length (3 inputs)");
}

TEST(ProvenanceSummary, EqualDifferencesAreOneWithoutARange) {
  const auto found =
      differences_of({{padded_to(40), padded_to(24)}, {padded_to(40), padded_to(24)}});
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].recorded, "40");
  EXPECT_EQ(found[0].live, "24");
  EXPECT_EQ(found[0].inputs, 2U);
  EXPECT_EQ(found[0].title(), "padded prompt length");
}

TEST(ProvenanceSummary, SaysWhereAnInputDoesNotTell) {
  const auto found =
      differences_of({{padded_to(nullptr), padded_to(24)}, {padded_to(40), padded_to(24)}});
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].recorded, "40 or unknown");
  EXPECT_EQ(found[0].live, "24");
  EXPECT_EQ(
      differences_of({{padded_to(nullptr), padded_to(24)}, {padded_to(nullptr), padded_to(9)}})
          .front()
          .recorded,
      "unknown");
}

// META may hold anything.
TEST(ProvenanceSummary, WhatIsNoNumberStandsAlone) {
  const auto found = differences_of({{padded_to("many"), padded_to(24)},
                                     {padded_to(40), padded_to(24)},
                                     {padded_to("many"), padded_to(24)}});
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].recorded, "many");
  EXPECT_EQ(found[0].inputs, 2U);
  EXPECT_EQ(found[1].recorded, "40");
}

// Two machines made the recordings: which pair of versions there was is worth a line each.
TEST(ProvenanceSummary, OfOtherKeysEachPairOfValuesStands) {
  json first = cpu_meta();
  json second = cpu_meta();
  first["device"]["provenance"]["threads"] = 4;
  second["device"]["provenance"]["threads"] = 8;
  const auto found =
      differences_of({{first, cpu_meta()}, {second, cpu_meta()}, {first, cpu_meta()}});
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].recorded, "4");
  EXPECT_EQ(found[0].inputs, 2U);
  EXPECT_EQ(found[1].recorded, "8");
  EXPECT_EQ(found[1].title(), "CPU threads");
}

}  // namespace
}  // namespace kvtool::analysis
