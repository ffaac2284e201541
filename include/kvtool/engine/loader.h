// Opens the engine library on first use, so that commands without a model
// start in milliseconds and work where there is no torch.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "kvtool/engine/api.h"

namespace kvtool::engine {

// A name of engine/cpu_isa.h; "auto" and an empty one change nothing. Must be called before
// load_engine(); Error kUsage for other names.
void set_cpu_isa(std::string_view isa);

// Loads libkvtool_engine.so from the path in KVTOOL_ENGINE_LIBRARY, else from
// beside the binary, else from ../lib. The library stays loaded until exit.
// Error kEnvironment when it is missing, was built for another kvtool, or its
// torch cannot be loaded; the message names the torch version it was built for.
std::unique_ptr<Engine> load_engine(const EngineOptions& options);

}  // namespace kvtool::engine
