// kvtool.json, which the exporter embeds in every model file.
#pragma once

#include <string>

#include "kvtool/engine/api.h"

namespace kvtool::engine {

inline constexpr int kContractVersion = 1;

// Parses and checks the metadata of the model at `path`. Error kIncompatible
// for another contract version, missing or wrong fields.
ModelInfo parse_model_metadata(const std::string& path, const std::string& json);

}  // namespace kvtool::engine
