#include "kvtool/engine/loader.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/engine/cpu_isa.h"

namespace kvtool::engine {
namespace {

constexpr const char* kLibraryName = "libkvtool_engine.so";

std::string loader_message() {
  const char* message = dlerror();
  return message == nullptr ? "unknown reason" : message;
}

std::filesystem::path find_library() {
  if (const char* path = std::getenv("KVTOOL_ENGINE_LIBRARY")) {
    if (!std::filesystem::exists(path)) {
      throw_environment(std::string("KVTOOL_ENGINE_LIBRARY names ") + path +
                        ", which does not exist");
    }
    return path;
  }
  const std::filesystem::path folder =
      std::filesystem::read_symlink("/proc/self/exe").parent_path();
  const std::filesystem::path installed = folder.parent_path() / "lib" / kLibraryName;
  if (std::filesystem::exists(folder / kLibraryName)) return folder / kLibraryName;
  if (std::filesystem::exists(installed)) return installed;
  throw_environment("the engine library is missing: neither " + (folder / kLibraryName).string() +
                    " nor " + installed.string() +
                    " exists. It runs the model and was built for torch " KVTOOL_TORCH_VERSION
                    "; build kvtool again (bash tools/demo.sh), or set KVTOOL_ENGINE_LIBRARY");
}

// What the libraries below torch read when they are loaded; a user's own values stay.
void set_defaults() {
  // cuBLAS computes reproducibly only with a fixed workspace.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
  // libgomp's threads spin for milliseconds between two operations, which makes a
  // step several times slower when another process wants the same cores. A short
  // spin costs nothing on an idle machine.
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) setenv("GOMP_SPINCOUNT", "2000", 0);
}

template <typename Function>
Function find_entry(void* library, const char* name, const std::filesystem::path& path) {
  void* symbol = dlsym(library, name);
  if (symbol == nullptr) {
    throw_environment(path.string() + " is no kvtool engine (it has no " + name + ")");
  }
  return reinterpret_cast<Function>(symbol);
}

}  // namespace

void set_cpu_isa(std::string_view isa) {
  if (isa.empty() || isa == kAnyCpuIsa) return;
  std::string known(kAnyCpuIsa);
  for (const CpuIsa& limit : kCpuIsas) {
    if (limit.name == isa) {
      setenv("ONEDNN_MAX_CPU_ISA", limit.onednn, 1);
      setenv("ATEN_CPU_CAPABILITY", limit.aten, 1);
      setenv("MKL_ENABLE_INSTRUCTIONS", limit.mkl, 1);
      return;
    }
    known += ", " + std::string(limit.name);
  }
  throw_usage(setting("cpu_isa") + " " + std::string(isa) + ": expected one of " + known);
}

std::unique_ptr<Engine> load_engine(const EngineOptions& options) {
  const std::filesystem::path path = find_library();
  set_defaults();
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw_environment("the engine " + path.string() + " cannot be loaded: " + loader_message() +
                      ". It was built for torch " KVTOOL_TORCH_VERSION
                      ": install that version where it was built, or build kvtool again");
  }
  const auto abi = find_entry<int (*)()>(library, "kvtool_engine_abi", path);
  if (abi() != kEngineAbi) {
    throw_environment("the engine " + path.string() + " belongs to another kvtool (interface " +
                      std::to_string(abi()) + ", this one is " + std::to_string(kEngineAbi) +
                      "): build both again");
  }
  const auto create =
      find_entry<Engine* (*)(const EngineOptions&)>(library, "kvtool_engine_create", path);
  return std::unique_ptr<Engine>(create(options));
}

}  // namespace kvtool::engine
