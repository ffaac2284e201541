// Which device a run uses, what it is called, and everything about the process
// that can change a result.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "kvtool/engine/api.h"

namespace kvtool::engine {

// "auto", "cpu", "cuda", "cuda:N". Error kUsage for other names, kEnvironment
// when the device is not there.
at::Device resolve_device(const std::string& request);

DeviceInfo describe_device(at::Device device);

// TORCH_VERSION of the loaded libtorch, "2.13.0".
std::string loaded_torch_version();

}  // namespace kvtool::engine
