#include "engine/device.h"

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
  EXPECT_TRUE(json.at("environment").is_object());
  EXPECT_TRUE(json.contains("onednn_max_cpu_isa"));
  EXPECT_TRUE(json.contains("mkl_enable_instructions"));
  EXPECT_FALSE(json.contains("driver_version"));
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
