#include "run_meta.h"

#include "kvtool/analysis/numerics.h"

namespace kvtool::run {
namespace {

using nlohmann::json;

json parsed_object(const std::string& text) {
  json parsed = json::parse(text, nullptr, false);
  return parsed.is_object() ? parsed : json::object();
}

}  // namespace

json exporter_members(const engine::ModelInfo& info) {
  json members = json::object();
  const json metadata = parsed_object(info.metadata_json);
  for (const char* key :
       {"torch_version", "transformers_version", "exporter_version", "quantized_from", "config",
        "config_sha256", "graph_sha256", "eos_token_ids", "generation_not_applied"}) {
    if (metadata.contains(key)) members[key] = metadata[key];
  }
  return members;
}

json make_meta(const MetaParts& parts) {
  const engine::ModelInfo& model = *parts.model;
  const engine::DeviceInfo& device = *parts.device;
  format::Meta meta =
      format::Meta::parse({{"model", exporter_members(model)},
                           {"device", {{"provenance", parsed_object(device.provenance_json)}}},
                           {"prompt", parts.prompt}});
  meta.kvtool = parts.kvtool_version;
  meta.created_utc = parts.created_utc;
  meta.cache = parts.kv_cache.to_string();
  meta.model.id = model.model_id;
  meta.model.slug = model.slug;
  meta.model.architecture = model.architecture;
  meta.model.dtype = model.dtype;
  meta.model.weights_sha256 = format::to_hex(model.weights_sha256);
  meta.model.max_positions = model.max_positions;
  meta.device.label = parts.device_label;
  meta.device.type = device.type;
  meta.device.name = device.name;
  meta.run = format::to_meta(parts.run);
  json result = meta.to_json();
  if (!parts.replay_of.is_null()) result["replay_of"] = parts.replay_of;
  result["numerics"] = analysis::numerics_member(analysis::numerics_of(result));
  return result;
}

}  // namespace kvtool::run
