// Models exported to TorchScript. Everything that touches torch::jit is here.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>

#include "engine/forward_module.h"

namespace kvtool::engine {

struct LoadedScript {
  std::unique_ptr<ForwardModule> module;
  std::string metadata_json;  // extra file kvtool.json
  std::string token_bytes;    // extra file token_bytes.bin; may be empty
};

// kvtool.json of FILE.pt alone. Errors as of load_script().
std::string read_script_metadata(const std::string& path);

// Loads FILE.pt onto `device`. Error kEnvironment when it is missing or no
// TorchScript file, kIncompatible when it was not made by tools/export_model.py.
LoadedScript load_script(const std::string& path, at::Device device);

}  // namespace kvtool::engine
