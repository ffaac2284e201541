#include "engine/device.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include <nlohmann/json.hpp>

namespace kvtool::engine {
namespace {

TEST(DescribeDevice, NamesEverythingThatCanChangeAResult) {
  const DeviceInfo info = describe_device(at::kCPU);
  const nlohmann::json json = nlohmann::json::parse(info.provenance_json);
  EXPECT_EQ(json.at("torch_version"), loaded_torch_version());
  EXPECT_EQ(json.at("cpu_model"), info.name);
  EXPECT_GE(json.at("threads").get<int>(), 1);
  EXPECT_EQ(json.at("float32_matmul_precision"), "highest");
  for (const char* key : {"cpu_isa", "os_release", "cpu_architecture"}) {
    EXPECT_FALSE(json.at(key).get<std::string>().empty()) << key;
  }
  for (const char* key : {"deterministic_algorithms", "tf32_matmul", "tf32_cudnn",
                          "cudnn_deterministic", "cudnn_benchmark", "onednn_deterministic"}) {
    EXPECT_TRUE(json.at(key).is_boolean()) << key;
  }
  // What torch comes with, and what recordings that lack them were made with.
  for (const char* key : {"sdp_flash", "sdp_mem_efficient", "sdp_math", "sdp_cudnn",
                          "onednn_enabled", "cudnn_enabled"}) {
    EXPECT_EQ(json.at(key), true) << key;
  }
  for (const char* key :
       {"sdp_math_reduced_precision", "fp16_reduction_cpu", "fp16_accumulation_cublas"}) {
    EXPECT_EQ(json.at(key), false) << key;
  }
  EXPECT_EQ(json.at("fp16_reduction_cublas"), "allowed");
  EXPECT_EQ(json.at("bf16_reduction_cublas"), "allowed");
  EXPECT_TRUE(json.at("environment").is_object());
  EXPECT_TRUE(json.contains("onednn_max_cpu_isa"));
  EXPECT_TRUE(json.contains("mkl_enable_instructions"));
  EXPECT_FALSE(json.contains("driver_version"));
}

TEST(DescribeDevice, SettingsAreThoseOfTheContext) {
  at::Context& context = at::globalContext();
  context.setSDPUseFlash(false);
  context.setAllowBF16ReductionCuBLAS(false);
  const auto json = nlohmann::json::parse(describe_device(at::kCPU).provenance_json);
  context.setSDPUseFlash(true);
  context.setAllowBF16ReductionCuBLAS(true);
  EXPECT_EQ(json.at("sdp_flash"), false);
  EXPECT_EQ(json.at("bf16_reduction_cublas"), "none");
  EXPECT_EQ(json.at("fp16_reduction_cublas"), "allowed");
}

TEST(DescribeDevice, HoldsTheVariablesThatAreSet) {
  ::setenv("MKL_CBWR", "AVX2", 1);
  const auto json = nlohmann::json::parse(describe_device(at::kCPU).provenance_json);
  ::unsetenv("MKL_CBWR");
  EXPECT_EQ(json.at("environment").at("MKL_CBWR"), "AVX2");
  EXPECT_FALSE(json.at("environment").contains("HOME"));
}

}  // namespace
}  // namespace kvtool::engine
