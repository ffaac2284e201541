#include "engine/cuda_driver.h"

#include <dlfcn.h>

#include <array>

namespace kvtool::engine {
namespace {

// From the CUDA Driver API reference: results are 0 on success; the attribute
// numbers are part of its stable interface.
constexpr int kMultiprocessorCount = 16;
constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;

class Driver {
 public:
  Driver() : library_(dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {}
  // Never closed: torch uses the same driver until the process ends.

  template <typename Function>
  Function find(const char* name) const {
    return library_ == nullptr ? nullptr : reinterpret_cast<Function>(dlsym(library_, name));
  }

 private:
  void* library_;
};

}  // namespace

std::optional<CudaDeviceDescription> describe_cuda_device(int index) {
  const Driver driver;
  const auto init = driver.find<int (*)(unsigned)>("cuInit");
  const auto get_device = driver.find<int (*)(int*, int)>("cuDeviceGet");
  const auto get_name = driver.find<int (*)(char*, int, int)>("cuDeviceGetName");
  const auto get_attribute = driver.find<int (*)(int*, int, int)>("cuDeviceGetAttribute");
  const auto get_version = driver.find<int (*)(int*)>("cuDriverGetVersion");
  if (init == nullptr || get_device == nullptr || get_name == nullptr || get_attribute == nullptr ||
      get_version == nullptr || init(0) != 0) {
    return std::nullopt;
  }
  int device = 0;
  std::array<char, 256> name{};
  if (get_device(&device, index) != 0 ||
      get_name(name.data(), static_cast<int>(name.size()) - 1, device) != 0) {
    return std::nullopt;
  }
  CudaDeviceDescription description;
  description.name = name.data();
  int version = 0;
  if (get_version(&version) == 0) {
    description.driver_version =
        std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
  }
  int major = 0;
  int minor = 0;
  if (get_attribute(&major, kComputeCapabilityMajor, device) == 0 &&
      get_attribute(&minor, kComputeCapabilityMinor, device) == 0) {
    description.compute_capability = std::to_string(major) + "." + std::to_string(minor);
  }
  (void)get_attribute(&description.multiprocessors, kMultiprocessorCount, device);
  return description;
}

}  // namespace kvtool::engine
