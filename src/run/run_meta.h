// The META record that a run writes into each recording.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "kvtool/engine/api.h"
#include "kvtool/format/meta.h"

namespace kvtool::run {

// What the exporter wrote of the model, of how text is made and of its own libraries, as it
// stands in the model file and in META's member `model`.
[[nodiscard]] nlohmann::json exporter_members(const engine::ModelInfo& info);

struct MetaParts {
  std::string kvtool_version;
  std::string created_utc;
  const engine::ModelInfo* model = nullptr;
  const engine::DeviceInfo* device = nullptr;
  std::string device_label;
  cache::CacheSpec kv_cache;
  format::RunMeta run;
  nlohmann::json prompt;          // {"text": ..., "messages": ...}
  nlohmann::json replay_of = {};  // META's member; null: no replay
};
[[nodiscard]] nlohmann::json make_meta(const MetaParts& parts);

}  // namespace kvtool::run
