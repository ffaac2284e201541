#include "engine/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <sys/utsname.h>
#include <torch/cuda.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>
#include <type_traits>

#include "engine/cuda_driver.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/format/kernel_variables.h"

namespace kvtool::engine {
namespace {

constexpr std::string_view kCudaPrefix = "cuda:";

at::Device cuda_device(const std::string& request, int index) {
  if (!torch::cuda::is_available()) {
    const std::string torch = "torch " + loaded_torch_version();
    throw_environment(
        setting("device") + " " + request + ": " +
        (describe_cuda_device(0)
             ? "there is a GPU, but " + torch +
                   " cannot use it (a CPU build of torch, or one for another driver): "
                   "install a CUDA build and build kvtool against it"
             : "there is no usable GPU (no CUDA driver or no device; " + torch +
                   "): check nvidia-smi, or use " + setting("device") + " cpu"));
  }
  const auto count = static_cast<int>(torch::cuda::device_count());
  if (index >= count) {
    throw_environment(setting("device") + " " + request + ": there are " + std::to_string(count) +
                      " GPUs, cuda:0 to cuda:" + std::to_string(count - 1));
  }
  return {at::kCUDA, static_cast<at::DeviceIndex>(index)};
}

std::string cpu_model() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    const auto colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

nlohmann::json environment_value(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? nlohmann::json(nullptr) : nlohmann::json(value);
}

std::string_view name_of(at::Float32MatmulPrecision precision) {
  switch (precision) {
    case at::Float32MatmulPrecision::HIGHEST: return "highest";
    case at::Float32MatmulPrecision::HIGH: return "high";
    case at::Float32MatmulPrecision::MEDIUM: return "medium";
  }
  return "unknown";
}

// Whether cuBLAS may add in 16 bits: a choice of two in older versions of torch.
template <typename Option>
std::string_view reduction_name(Option option) {
  if constexpr (std::is_same_v<Option, bool>) return option ? "allowed" : "none";
  constexpr std::array<std::string_view, 3> kNames = {"allowed", "none", "none, no split-K"};
  const auto index = static_cast<std::size_t>(option);
  return index < kNames.size() ? kNames[index] : "unknown";
}

nlohmann::json cpu_provenance() {
  nlohmann::json json{
      {"torch_version", loaded_torch_version()},
      {"cpu_model", cpu_model()},
      // What torch's own kernels use; oneDNN and MKL follow the variables.
      {"cpu_isa", at::get_cpu_capability()},
      {"onednn_max_cpu_isa", environment_value("ONEDNN_MAX_CPU_ISA")},
      {"mkl_enable_instructions", environment_value("MKL_ENABLE_INSTRUCTIONS")},
      {"threads", at::get_num_threads()},
  };
  json["environment"] = format::recorded_variables(environ);
  if (std::getenv("ATEN_CPU_CAPABILITY") != nullptr) {
    json["aten_cpu_capability"] = environment_value("ATEN_CPU_CAPABILITY");
  }
  utsname system{};
  if (uname(&system) == 0) {
    json["os_release"] = std::string(system.sysname) + " " + system.release;
    json["cpu_architecture"] = system.machine;
  }
  return json;
}

// Written on every device, so that records of two devices can be compared key by key.
nlohmann::json numeric_settings() {
  const at::Context& context = at::globalContext();
  return {
      {"deterministic_algorithms", context.deterministicAlgorithms()},
      {"float32_matmul_precision", name_of(context.float32MatmulPrecision())},
      {"onednn_deterministic", context.deterministicMkldnn()},
      {"tf32_matmul", context.allowTF32CuBLAS()},
      {"tf32_cudnn", context.allowTF32CuDNN()},
      {"cudnn_deterministic", context.deterministicCuDNN()},
      {"cudnn_benchmark", context.benchmarkCuDNN()},
      {"onednn_enabled", context.userEnabledMkldnn()},
      {"cudnn_enabled", context.userEnabledCuDNN()},
      {"sdp_flash", context.userEnabledFlashSDP()},
      {"sdp_mem_efficient", context.userEnabledMemEfficientSDP()},
      {"sdp_math", context.userEnabledMathSDP()},
      {"sdp_cudnn", context.userEnabledCuDNNSDP()},
      {"sdp_math_reduced_precision", context.allowFP16BF16ReductionMathSDP()},
      {"fp16_reduction_cpu", context.allowFP16ReductionCPU()},
      {"fp16_reduction_cublas", reduction_name(context.allowFP16ReductionCuBLAS())},
      {"bf16_reduction_cublas", reduction_name(context.allowBF16ReductionCuBLAS())},
      {"fp16_accumulation_cublas", context.allowFP16AccumulationCuBLAS()},
  };
}

// "13.0" of 13000.
std::string cuda_version(long number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

nlohmann::json cuda_provenance(at::Device device) {
  nlohmann::json json{
      {"cublas_workspace_config", environment_value("CUBLAS_WORKSPACE_CONFIG")},
      {"cuda_runtime_version", cuda_version(at::Context::versionCUDART())},
  };
  if (at::Context::hasCuDNN()) {
    json["cudnn_version"] = std::to_string(at::Context::versionRuntimeCuDNN());
  }
  if (const auto gpu = describe_cuda_device(device.index())) {
    json["driver_version"] = gpu->driver_version;
    json["compute_capability"] = gpu->compute_capability;
    json["multiprocessors"] = gpu->multiprocessors;
  }
  return json;
}

nlohmann::json provenance(at::Device device) {
  nlohmann::json json = cpu_provenance();
  json.update(numeric_settings());
  if (device.is_cuda()) json.update(cuda_provenance(device));
  return json;
}

}  // namespace

std::string loaded_torch_version() {
  const std::string config = at::show_config();
  constexpr std::string_view kKey = "TORCH_VERSION=";
  const auto begin = config.find(kKey);
  if (begin == std::string::npos) return KVTOOL_TORCH_VERSION;
  const auto end = config.find(',', begin);
  return config.substr(begin + kKey.size(), end - begin - kKey.size());
}

at::Device resolve_device(const std::string& request) {
  if (request == "cpu") return at::kCPU;
  if (request == "auto") {
    return torch::cuda::is_available() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  }
  if (request == "cuda") return cuda_device(request, 0);
  int index = -1;
  if (request.starts_with(kCudaPrefix)) {
    const char* end = request.data() + request.size();
    const auto parsed = std::from_chars(request.data() + kCudaPrefix.size(), end, index);
    if (parsed.ec == std::errc() && parsed.ptr == end && index >= 0 && index < 128) {
      return cuda_device(request, index);
    }
  }
  throw_usage(setting("device") + " " + request + ": expected auto, cpu, cuda or cuda:N");
}

DeviceInfo describe_device(at::Device device) {
  DeviceInfo info;
  info.provenance_json = provenance(device).dump();
  if (device.is_cpu()) {
    info.type = "cpu";
    info.label = "CPU";
    info.name = cpu_model();
    return info;
  }
  info.type = "cuda";
  info.index = device.index();
  const auto gpu = describe_cuda_device(device.index());
  info.name = gpu ? gpu->name : "CUDA " + std::to_string(device.index());
  info.label = info.name;
  std::replace_if(
      info.label.begin(), info.label.end(), [](char c) { return c == ' ' || c == '/'; }, '_');
  return info;
}

}  // namespace kvtool::engine
