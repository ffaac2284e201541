#include "kvtool/analysis/numerics.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace kvtool::analysis {
namespace {

using nlohmann::json;
using Strings = std::vector<std::string>;

// Everything that a recording of a CPU says.
json cpu_record() {
  return json::parse(R"({
    "kvtool": "0.2.0",
    "created_utc": "2026-01-02T03:04:05Z",
    "cache": "contiguous",
    "model": {"id": "org/model", "architecture": "LlamaForCausalLM", "dtype": "bfloat16",
              "weights_sha256": "57ee", "config_sha256": "cf", "graph_sha256": "af",
              "config": {"rms_norm_eps": 1e-6}, "max_positions": 100,
              "torch_version": "2.13.0", "transformers_version": "5.17.0",
              "exporter_version": "0.2.0"},
    "device": {"label": "CPU", "type": "cpu", "name": "Some CPU",
               "provenance": {"torch_version": "2.13.0", "cpu_model": "Some CPU",
                              "cpu_architecture": "x86_64", "cpu_isa": "AVX512", "threads": 2,
                              "onednn_max_cpu_isa": null, "mkl_enable_instructions": null,
                              "environment": {"MKL_CBWR": "AVX2"},
                              "deterministic_algorithms": false, "tf32_matmul": false,
                              "tf32_cudnn": false, "float32_matmul_precision": "highest",
                              "onednn_deterministic": false, "cudnn_deterministic": false,
                              "cudnn_benchmark": false, "os_release": "Linux 6.1"}},
    "prompt": {"text": "Hi"},
    "run": {"batch_id": "a", "batch_size": 4, "batch_index": 0, "row": 0, "rows": 4,
            "input_index": 0, "padded_length": 40, "padding": 3, "cache_capacity": 100,
            "max_new_tokens": 61, "ignore_eos": false}})");
}

json cuda_record() {
  json meta = cpu_record();
  meta["device"]["type"] = "cuda";
  meta["device"]["name"] = "NVIDIA H200";
  meta["device"]["provenance"].update({{"driver_version", "580.1"},
                                       {"compute_capability", "9.0"},
                                       {"multiprocessors", 132},
                                       {"cuda_runtime_version", "13.0"},
                                       {"cudnn_version", "91002"}});
  return meta;
}

struct Change {
  const char* pointer;
  json value;
};

json with(json meta, const Change& change) {
  meta[json::json_pointer(change.pointer)] = change.value;
  return meta;
}

struct Changed {
  bool policy = false;
  bool platform = false;
  friend bool operator==(const Changed&, const Changed&) = default;
};

Changed changed_by(const json& meta, const Change& change) {
  const Numerics before = numerics_of(meta);
  const Numerics after = numerics_of(with(meta, change));
  EXPECT_TRUE(after.policy.known() && after.platform.known()) << change.pointer;
  return {before.policy.digest != after.policy.digest,
          before.platform.digest != after.platform.digest};
}

const std::vector<Change> kPolicyOfAny = {{"/model/dtype", "float16"},
                                          {"/cache", "int8"},
                                          {"/device/provenance/tf32_matmul", true},
                                          {"/device/provenance/float32_matmul_precision", "high"},
                                          {"/device/provenance/deterministic_algorithms", true},
                                          {"/device/provenance/sdp_flash", false},
                                          {"/device/provenance/sdp_math", false},
                                          {"/device/provenance/sdp_math_reduced_precision", true},
                                          {"/run/rows", 1},
                                          {"/run/padded_length", 39},
                                          {"/run/cache_capacity", 99},
                                          {"/replay_of/parallel", true}};
const std::vector<Change> kPolicyOfCpus = {{"/device/provenance/cpu_isa", "AVX2"},
                                           {"/device/provenance/onednn_enabled", false},
                                           {"/device/provenance/fp16_reduction_cpu", true},
                                           {"/device/provenance/threads", 1},
                                           {"/device/provenance/onednn_deterministic", true}};
const std::vector<Change> kPolicyOfGpus = {{"/device/provenance/tf32_cudnn", true},
                                           {"/device/provenance/cudnn_enabled", false},
                                           {"/device/provenance/sdp_mem_efficient", false},
                                           {"/device/provenance/sdp_cudnn", false},
                                           {"/device/provenance/fp16_reduction_cublas", "none"},
                                           {"/device/provenance/bf16_reduction_cublas", "none"},
                                           {"/device/provenance/fp16_accumulation_cublas", true},
                                           {"/device/provenance/cudnn_deterministic", true},
                                           {"/device/provenance/cudnn_benchmark", true}};
const std::vector<Change> kPlatformOfAny = {{"/kvtool", "0.3.0"},
                                            {"/device/provenance/torch_version", "2.14.0"}};
const std::vector<Change> kPlatformOfCpus = {{"/device/provenance/cpu_model", "Other CPU"},
                                             {"/device/provenance/cpu_architecture", "aarch64"}};
const std::vector<Change> kPlatformOfGpus = {{"/device/name", "NVIDIA H100"},
                                             {"/device/provenance/driver_version", "590.2"},
                                             {"/device/provenance/compute_capability", "9.1"},
                                             {"/device/provenance/multiprocessors", 130},
                                             {"/device/provenance/cuda_runtime_version", "13.1"},
                                             {"/device/provenance/cudnn_version", "91100"}};

void expect_all(const json& meta, const std::vector<std::vector<Change>>& lists,
                const Changed& expected) {
  for (const std::vector<Change>& list : lists) {
    for (const Change& change : list) {
      EXPECT_EQ(changed_by(meta, change), expected) << change.pointer;
    }
  }
}

TEST(Numerics, WhatWasChosenChangesThePolicyAlone) {
  const Changed policy{.policy = true};
  expect_all(cpu_record(), {kPolicyOfAny, kPolicyOfCpus}, policy);
  expect_all(cuda_record(), {kPolicyOfAny, kPolicyOfGpus}, policy);
}

TEST(Numerics, WhatItRanOnChangesThePlatformAlone) {
  const Changed platform{.platform = true};
  expect_all(cpu_record(), {kPlatformOfAny, kPlatformOfCpus}, platform);
  expect_all(cuda_record(), {kPlatformOfAny, kPlatformOfGpus}, platform);
}

// A row of the table that is in none of the lists above is not tested.
TEST(Numerics, EveryEntryIsChangedOnceByTheseTests) {
  const auto count = [](const auto&... lists) { return (lists.size() + ...); };
  const Numerics cpu = numerics_of(cpu_record());
  const std::size_t variables = 1;
  EXPECT_EQ(cpu.policy.entries.size(), count(kPolicyOfAny, kPolicyOfCpus) + variables);
  // Of another type it has other rows: the type is changed in a test of its own.
  EXPECT_EQ(cpu.platform.entries.size(), count(kPlatformOfAny, kPlatformOfCpus) + 1);
  const Numerics cuda = numerics_of(cuda_record());
  EXPECT_EQ(cuda.policy.entries.size(), count(kPolicyOfAny, kPolicyOfGpus));
  EXPECT_EQ(cuda.platform.entries.size(), count(kPlatformOfAny, kPlatformOfGpus) + 1);
}

TEST(Numerics, WhatChangesNoBitChangesNeither) {
  const std::vector<Change> harmless = {{"/created_utc", "2027-01-02T03:04:05Z"},
                                        {"/device/label", "laptop"},
                                        {"/device/provenance/os_release", "Linux 6.2"},
                                        {"/prompt/text", "Ho"},
                                        {"/run/batch_id", "b"},
                                        {"/run/batch_size", 8},
                                        {"/run/batch_index", 1},
                                        {"/run/row", 1},
                                        {"/run/input_index", 4},
                                        {"/run/padding", 0},
                                        {"/run/max_new_tokens", 9},
                                        {"/run/ignore_eos", true},
                                        {"/replay_of/path", "x.kvc"},
                                        {"/replay_of/parallel", false},
                                        {"/later", 1},
                                        // They are the model, which its own digests tell apart.
                                        {"/model/id", "org/other"},
                                        {"/model/weights_sha256", "ab"},
                                        {"/model/architecture", "Other"},
                                        {"/model/config/rms_norm_eps", 1e-5},
                                        {"/model/graph_sha256", "ab"},
                                        {"/model/transformers_version", "5.18.0"},
                                        {"/model/torch_version", "2.14.0"},
                                        {"/model/exporter_version", "0.3.0"},
                                        {"/device/provenance/environment/ONEDNN_VERBOSE", "1"},
                                        {"/device/provenance/environment/MKL_NUM_THREADS", "2"}};
  expect_all(cpu_record(),
             {harmless, kPolicyOfGpus, std::vector{Change{"/device/name", "Other CPU"}}}, {});
  expect_all(cuda_record(), {harmless, kPolicyOfCpus, kPlatformOfCpus}, {});
}

TEST(Numerics, AVariableIsPolicyOfTheDevicesThatReadIt) {
  const Change cpu{"/device/provenance/environment/ONEDNN_DEFAULT_FPMATH_MODE", "BF16"};
  const Change cuda{"/device/provenance/environment/NVIDIA_TF32_OVERRIDE", "1"};
  const Change any{"/device/provenance/environment/LD_PRELOAD", "libx.so"};
  const Change later{"/device/provenance/environment/NEW_LIBRARY_MODE", "fast"};
  const Changed policy{.policy = true};
  EXPECT_EQ(changed_by(cpu_record(), cpu), policy);
  EXPECT_EQ(changed_by(cpu_record(), cuda), Changed{});
  EXPECT_EQ(changed_by(cuda_record(), cuda), policy);
  EXPECT_EQ(changed_by(cuda_record(), cpu), Changed{});
  for (const json& meta : {cpu_record(), cuda_record()}) {
    EXPECT_EQ(changed_by(meta, any), policy);
    EXPECT_EQ(changed_by(meta, later), policy);
  }
}

TEST(Numerics, OneDnnsSpellingsAreOneVariable) {
  const auto digest = [](const json& environment) {
    return numerics_of(with(cpu_record(), {"/device/provenance/environment", environment}))
        .policy.digest;
  };
  EXPECT_EQ(digest({{"DNNL_MAX_CPU_ISA", "AVX2"}}), digest({{"ONEDNN_MAX_CPU_ISA", "AVX2"}}));
  EXPECT_NE(digest({{"DNNL_MAX_CPU_ISA", "AVX2"}}), digest(json::object()));
}

TEST(Numerics, ASettingOfANewerKvtoolIsPolicy) {
  EXPECT_EQ(changed_by(cpu_record(), {"/device/provenance/new_setting", 1}),
            Changed{.policy = true});
}

// Independently: Python's json.dumps(entries, sort_keys=True, separators=(",", ":")) and
// xxhash.xxh3_128_hexdigest of it.
TEST(Numerics, TheDigestIsThatOfTheEntriesAsJson) {
  const Numerics numerics = numerics_of(cpu_record());
  const std::map<std::string, std::string> platform = {
      {"device.provenance.cpu_architecture", "x86_64"},
      {"device.provenance.cpu_model", "Some CPU"},
      {"device.provenance.torch_version", "2.13.0"},
      {"device.type", "cpu"},
      {"kvtool", "0.2.0"}};
  EXPECT_EQ(numerics.platform.entries, platform);
  EXPECT_EQ(numerics.platform.digest, "851d7ed0184344590554d183e339d0b0");
  EXPECT_EQ(numerics.policy.entries.at("device.provenance.threads"), "2");
  EXPECT_EQ(numerics.policy.entries.at("device.provenance.environment.MKL_CBWR"), "AVX2");
  EXPECT_EQ(numerics.policy.entries.at("replay_of.parallel"), "false");
  EXPECT_EQ(numerics.policy.entries.count("device.provenance.tf32_cudnn"), 0U);
}

TEST(Numerics, TheOrderOfMembersIsNothing) {
  nlohmann::ordered_json reversed = nlohmann::ordered_json::object();
  const json record = cpu_record();
  for (auto each = record.rbegin(); each != record.rend(); ++each) {
    reversed[each.key()] = nlohmann::ordered_json::parse(each.value().dump());
  }
  const json again = json::parse(reversed.dump());
  EXPECT_EQ(numerics_of(again).policy.digest, numerics_of(record).policy.digest);
  EXPECT_EQ(numerics_of(again).platform.digest, numerics_of(record).platform.digest);
}

// What they lack has always had one value.
TEST(Numerics, MembersThatOlderVersionsDidNotWriteCountAsTheyWere) {
  json older = cpu_record();
  older.erase("cache");
  for (const char* name : {"tf32_matmul", "float32_matmul_precision", "deterministic_algorithms",
                           "onednn_deterministic", "cudnn_benchmark"}) {
    older["device"]["provenance"].erase(name);
  }
  EXPECT_EQ(numerics_of(older).policy.digest, numerics_of(cpu_record()).policy.digest);
}

TEST(Numerics, WhatARecordingCannotTellIsNamedAndHasNoDigest) {
  json older = cpu_record();
  older["device"]["provenance"].erase("environment");
  older["device"]["provenance"].erase("threads");
  const Numerics numerics = numerics_of(older);
  EXPECT_FALSE(numerics.policy.known());
  EXPECT_EQ(numerics.policy.missing, (Strings{"CPU threads", "environment variables"}));
  EXPECT_TRUE(numerics.policy.digest.empty());
  EXPECT_EQ(numerics.platform.digest, numerics_of(cpu_record()).platform.digest);
  const json member = numerics_member(numerics);
  EXPECT_FALSE(member["policy"].contains("digest"));
  EXPECT_EQ(member["policy"]["missing"], json(Strings{"CPU threads", "environment variables"}));
  EXPECT_EQ(member["platform"]["digest"], numerics.platform.digest);
  EXPECT_FALSE(member["platform"].contains("missing"));
}

TEST(Numerics, ADeviceWithoutATypeHasNeither) {
  json meta = cpu_record();
  meta["device"].erase("type");
  EXPECT_EQ(numerics_of(meta).policy.missing, Strings{"device type"});
  EXPECT_EQ(numerics_of(meta).platform.missing, Strings{"device type"});
}

TEST(Numerics, RecordsThatAreNoObjectsAreTaken) {
  for (const char* text : {"null", "[]", "3", "\"x\"", "{}", R"({"device": 4})",
                           R"({"device": {"type": "cpu", "provenance": [1]}})"}) {
    const Numerics numerics = numerics_of(json::parse(text));
    EXPECT_FALSE(numerics.policy.known()) << text;
    EXPECT_FALSE(numerics.platform.known()) << text;
  }
}

// One table: what changes a digest is a difference of that part.
TEST(Numerics, DifferencesOfProvenanceSayTheirPart) {
  const auto part = [](const json& meta, const Change& change) {
    const auto found = compare_provenance(meta, with(meta, change));
    EXPECT_EQ(found.size(), 1U) << change.pointer;
    return found.empty() ? "none" : part_name(found.front().part);
  };
  for (const auto& list : {kPolicyOfAny, kPolicyOfCpus}) {
    for (const Change& change : list) EXPECT_EQ(part(cpu_record(), change), "policy");
  }
  for (const auto& list : {kPlatformOfAny, kPlatformOfGpus}) {
    for (const Change& change : list) EXPECT_EQ(part(cuda_record(), change), "platform");
  }
  EXPECT_EQ(part(cpu_record(), {"/device/provenance/environment/MKL_CBWR", "SSE4_2"}), "policy");
  EXPECT_EQ(part(cpu_record(), {"/device/provenance/os_release", "Linux 6.2"}), "system");
  EXPECT_EQ(part(cpu_record(), {"/model/graph_sha256", "ab"}), "model");
  EXPECT_EQ(part(cpu_record(), {"/model/config/rms_norm_eps", 1e-5}), "model");
}

NumericsAgreement compared(const json& recorded, const json& live) {
  return compare_numerics(recorded, live, compare_provenance(recorded, live));
}

TEST(NumericsAgreement, EqualRecordsAgree) {
  const NumericsAgreement found = compared(cpu_record(), cpu_record());
  EXPECT_EQ(found.policy.same(), true);
  EXPECT_EQ(found.platform.same(), true);
  EXPECT_EQ(found.policy.recorded, numerics_of(cpu_record()).policy.digest);
  EXPECT_EQ(found.policy.live, found.policy.recorded);
}

TEST(NumericsAgreement, NamesWhatDiffersInItsPart) {
  json live = with(cpu_record(), {"/device/provenance/threads", 1});
  live["run"]["rows"] = 1;
  live["device"]["provenance"]["torch_version"] = "2.14.0";
  live["device"]["provenance"]["os_release"] = "Linux 6.2";
  const NumericsAgreement found = compared(cpu_record(), live);
  EXPECT_EQ(found.policy.same(), false);
  EXPECT_EQ(found.policy.differing, (Strings{"CPU threads", "rows of the batch"}));
  EXPECT_EQ(found.platform.same(), false);
  EXPECT_EQ(found.platform.differing, Strings{"torch"});
}

TEST(NumericsAgreement, WhatOneSideDoesNotTellIsNoDifference) {
  json recorded = cpu_record();
  recorded["device"]["provenance"].erase("environment");
  recorded["device"]["provenance"].erase("threads");
  const NumericsAgreement found = compared(recorded, cpu_record());
  EXPECT_FALSE(found.policy.same().has_value());
  EXPECT_EQ(found.policy.missing, (Strings{"CPU threads", "environment variables"}));
  EXPECT_TRUE(found.policy.differing.empty());
  EXPECT_EQ(found.platform.same(), true);
}

// Neither can be called the other's policy: one has no threads, the other no cuDNN.
TEST(NumericsAgreement, KindsOfDevicesAgreeInWhatBothHave) {
  const NumericsAgreement found = compared(cpu_record(), cuda_record());
  EXPECT_FALSE(found.policy.same().has_value());
  EXPECT_TRUE(found.policy.differing.empty());
  EXPECT_TRUE(found.policy.missing.empty());
  EXPECT_EQ(found.platform.differing, (Strings{"device type", "device"}));
}

TEST(NumericsAgreement, InputsTogetherAgreeWhereEachDoes) {
  NumericAgreement all = compared(cpu_record(), cpu_record()).policy;
  const json wide = with(cpu_record(), {"/run/rows", 8});
  all.add(compared(wide, wide).policy);
  EXPECT_EQ(all.same(), true);
  EXPECT_EQ(all.recorded, "") << "inputs have several";
  all.add(compared(cpu_record(), wide).policy);
  EXPECT_EQ(all.same(), false);
  all.add(compared(wide, cpu_record()).policy);
  EXPECT_EQ(all.differing, Strings{"rows of the batch"}) << "once";
}

}  // namespace
}  // namespace kvtool::analysis
