// One engine and one loaded model for several sessions of a command.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "kvtool/run/services.h"

namespace kvtool::run {

// Replaces Services::open_engine. The first call opens the engine, later ones
// hand out the same one; its load_model() keeps the model that was loaded last.
// All calls must ask for the same device, instruction set and threads.
[[nodiscard]] std::function<std::unique_ptr<engine::Engine>(const std::string& cpu_isa,
                                                            const engine::EngineOptions& options)>
share_engine(OpenEngine open_engine);

}  // namespace kvtool::run
