// What the CUDA driver says about a GPU, asked without any CUDA header or
// library at build time.
#pragma once

#include <optional>
#include <string>

namespace kvtool::engine {

struct CudaDeviceDescription {
  std::string name;                // "NVIDIA H200"
  std::string driver_version;      // highest CUDA version of the driver, "13.0"
  std::string compute_capability;  // "9.0"
  int multiprocessors = 0;
};

// Empty when there is no driver or no such device. `index` counts as torch
// does, after CUDA_VISIBLE_DEVICES.
std::optional<CudaDeviceDescription> describe_cuda_device(int index);

}  // namespace kvtool::engine
