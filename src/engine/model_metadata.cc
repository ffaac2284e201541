#include "engine/model_metadata.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

DType dtype_field(const nlohmann::json& object, const char* key) {
  const auto name = object.at(key).get<std::string>();
  const auto dtype = parse_dtype(name);
  if (!dtype) throw_incompatible(std::string(key) + " \"" + name + "\" is no dtype kvtool knows");
  return *dtype;
}

format::Geometry parse_geometry(const nlohmann::json& layers) {
  std::vector<format::LayerGeometry> geometry;
  for (const nlohmann::json& layer : layers) {
    geometry.push_back({.key_dtype = dtype_field(layer, "key_dtype"),
                        .value_dtype = dtype_field(layer, "value_dtype"),
                        .num_kv_heads = layer.at("num_kv_heads").get<std::uint32_t>(),
                        .key_dim = layer.at("key_dim").get<std::uint32_t>(),
                        .value_dim = layer.at("value_dim").get<std::uint32_t>()});
  }
  return format::Geometry(std::move(geometry));
}

// It becomes the name of a folder.
std::string slug_field(const nlohmann::json& object) {
  const auto slug = object.at("model_slug").get<std::string>();
  const bool named = !slug.empty() && std::all_of(slug.begin(), slug.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
  if (!named) {
    throw_incompatible("model_slug \"" + slug + "\" of the model '" +
                       object.at("model_id").get<std::string>() +
                       "' can name no folder of recordings; export the model again with "
                       "tools/export_model.py --model-id NAME");
  }
  return slug;
}

// What a recording's META has room for (docs/format.md, "The model's config").
constexpr std::size_t kMaxConfigBytes = std::size_t{256} * 1024;
constexpr int kMaxConfigDepth = 8;

bool is_deeper(const nlohmann::json& value, int levels) {
  if (!value.is_structured()) return false;
  if (levels == 0) return true;
  return std::any_of(value.begin(), value.end(),
                     [&](const nlohmann::json& each) { return is_deeper(each, levels - 1); });
}

// Model files from before there were configs have none.
void check_identity(const nlohmann::json& json) {
  for (const char* key : {"config_sha256", "graph_sha256"}) {
    if (json.contains(key) && !format::parse_sha256(json[key].get<std::string>())) {
      throw_incompatible(std::string(key) + " is not 64 hex digits");
    }
  }
  if (!json.contains("config")) return;
  const nlohmann::json& config = json["config"];
  if (!config.is_object()) throw_incompatible("config is not an object");
  if (is_deeper(config, kMaxConfigDepth)) {
    throw_incompatible("config is nested deeper than " + std::to_string(kMaxConfigDepth));
  }
  const std::size_t size = config.dump().size();
  if (size > kMaxConfigBytes) {
    throw_incompatible("config takes " + std::to_string(size) + " bytes, at most " +
                       std::to_string(kMaxConfigBytes) + " fit into a recording");
  }
}

ModelInfo parse_fields(const nlohmann::json& json) {
  const int version = json.at("contract_version").get<int>();
  if (version != kContractVersion) {
    throw_incompatible("model contract version " + std::to_string(version) +
                       ", this kvtool knows " + std::to_string(kContractVersion) +
                       "; export the model with the tools/export_model.py of this kvtool");
  }
  ModelInfo info;
  info.model_id = json.at("model_id").get<std::string>();
  info.slug = slug_field(json);
  info.architecture = json.at("architecture").get<std::string>();
  info.dtype = json.at("dtype").get<std::string>();
  info.logits_dtype = dtype_field(json, "logits_dtype");
  info.vocab_size = json.at("vocab_size").get<std::uint32_t>();
  info.max_positions = json.at("max_positions").get<std::uint64_t>();
  info.eos_token_ids = json.at("eos_token_ids").get<std::vector<std::int32_t>>();
  info.geometry = parse_geometry(json.at("layers"));
  const auto digest = format::parse_sha256(json.at("weights_sha256").get<std::string>());
  if (!digest) throw_incompatible("weights_sha256 is not 64 hex digits");
  info.weights_sha256 = *digest;
  check_identity(json);
  return info;
}

}  // namespace

ModelInfo parse_model_metadata(const std::string& path, const std::string& json) {
  try {
    ModelInfo info = parse_fields(nlohmann::json::parse(json));
    info.path = path;
    info.metadata_json = json;
    return info;
  } catch (const Error& error) {
    throw_incompatible(path + ": " + error.what());
  } catch (const nlohmann::json::exception& error) {
    throw_incompatible(path + ": its kvtool.json is damaged: " + error.what() +
                       "; export the model again");
  }
}

}  // namespace kvtool::engine
