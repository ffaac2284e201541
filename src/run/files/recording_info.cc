#include "kvtool/run/recording_info.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kvtool/base/error.h"
#include "kvtool/format/meta.h"
#include "kvtool/format/reader.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {
namespace {

using nlohmann::json;

std::string member_string(const json& object, const char* key) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_string()) return {};
  return object[key].get<std::string>();
}

// "3", or "1-8" where layers differ.
template <typename Member>
std::string layer_range(const format::Geometry& geometry, Member member) {
  if (geometry.layers().empty()) return "0";
  const auto [low, high] =
      std::minmax_element(geometry.layers().begin(), geometry.layers().end(),
                          [&](const auto& a, const auto& b) { return a.*member < b.*member; });
  const std::uint64_t least = (*low).*member;
  const std::uint64_t most = (*high).*member;
  return least == most ? std::to_string(least) : std::to_string(least) + "-" + std::to_string(most);
}

std::string kv_dtype(const format::Geometry& geometry) {
  if (geometry.layers().empty()) return "none";
  const auto coded = [](const auto& layer) { return !layer.is_plain(); };
  if (std::any_of(geometry.layers().begin(), geometry.layers().end(), coded)) return "coded";
  const DType first = geometry.layer(0).key_dtype;
  const bool same = std::all_of(
      geometry.layers().begin(), geometry.layers().end(),
      [&](const auto& layer) { return layer.key_dtype == first && layer.value_dtype == first; });
  return same ? std::string(dtype_name(first)) : "mixed";
}

// "cpu_isa" -> "cpu isa".
std::string readable(std::string key) {
  std::replace(key.begin(), key.end(), '_', ' ');
  return key;
}

std::string one_line_json(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

// What ended the generation, and what the checkpoint asks for and kvtool does not apply.
void take_generation(const json& model, RecordingInfo& info) {
  if (!model.is_object()) return;
  if (const auto ids = model.find("eos_token_ids"); ids != model.end() && ids->is_array()) {
    info.provenance.emplace_back("end-of-sequence ids", one_line_json(*ids));
  }
  const auto ignored = model.find("generation_not_applied");
  if (ignored == model.end() || !ignored->is_object()) return;
  for (const auto& [name, value] : ignored->items()) {
    info.provenance.emplace_back("not applied: " + name, one_line_json(value));
  }
}

void take_environment(const json& meta, RecordingInfo& info) {
  static const json::json_pointer kDevice("/device/provenance");
  if (!meta.contains(kDevice) || !meta.at(kDevice).is_object()) return;
  const json& provenance = meta.at(kDevice);
  const auto found = provenance.find("environment");
  const bool is_recorded = found != provenance.end() && found->is_object();
  if (!is_recorded || found->empty()) {
    info.provenance.emplace_back("environment variables",
                                 is_recorded ? "none that changes kernels" : "not recorded");
    return;
  }
  for (const auto& [name, value] : found->items()) {
    info.provenance.emplace_back(
        "environment " + name, value.is_string() ? value.get<std::string>() : one_line_json(value));
  }
}

// Where the numbers come from: versions of the exporter's libraries, then all
// that the device said of itself. META may come from anywhere.
void take_provenance(const json& meta, const format::Meta& typed, RecordingInfo& info) {
  const auto take = [&](const std::string& prefix, const std::string& key) {
    const auto text = format::text_at(meta, "model." + key);
    if (text) info.provenance.emplace_back(prefix + readable(key), *text);
  };
  take("", "exporter_version");
  take("exported with ", "torch_version");
  take("exported with ", "transformers_version");
  take("", "quantized_from");
  take_generation(meta.is_object() ? meta.value("model", json()) : json(), info);
  for (const format::MetaSetting& setting : typed.provenance()) {
    info.provenance.emplace_back(readable(setting.name), setting.text);
  }
  take_environment(meta, info);
}

void take_meta(const json& meta, RecordingInfo& info) {
  const format::Meta typed = format::Meta::parse(meta);
  info.model_id = typed.model.id.value_or("");
  info.model_slug = typed.model.slug.value_or("");
  info.model_dtype = typed.model.dtype.value_or("");
  info.config_sha256 = typed.model.config_sha256.value_or("");
  info.graph_sha256 = typed.model.graph_sha256.value_or("");
  info.device_label = typed.device.label.value_or("");
  info.device_name = typed.device.name.value_or("");
  info.kv_cache = typed.cache_or_unnamed();
  info.prompt_text = typed.prompt_text.value_or("");
  info.numerics = analysis::numerics_of(meta);
  take_provenance(meta, typed, info);
  info.created_utc = typed.created_utc.value_or("");
  info.kvtool_version = typed.kvtool.value_or("");
  info.torch_version = typed.setting("torch_version").value_or("");
  if (typed.replay_of) {
    info.replay_of = typed.replay_of->path.value_or("");
    info.replay_mode = typed.replay_of->mode.value_or("");
  }
  if (!typed.run) return;
  info.batch_size = typed.run->batch_size;
  info.row = typed.run->row;
  info.rows = typed.run->rows;
  info.input_index = typed.run->input_index;
}

RecordingInfo info_or_reason(const std::filesystem::path& path) {
  try {
    return read_recording_info(path);
  } catch (const Error& error) {
    RecordingInfo info;
    info.path = path.string();
    std::error_code ignored;
    const auto size = std::filesystem::file_size(path, ignored);
    info.bytes = ignored ? 0 : size;
    info.error = error.what();
    return info;
  }
}

}  // namespace

RecordingInfo read_recording_info(const std::filesystem::path& path) {
  const format::Recording recording = format::Recording::open(path);
  const format::RecordingHeader& header = recording.header();
  RecordingInfo info;
  info.path = path.string();
  info.bytes = recording.stored_bytes();
  if (recording.packed()) info.unpacked_bytes = recording.file_bytes();
  info.partial_name = is_partial_path(path);
  info.complete = recording.complete();
  info.truncation = recording.truncation();
  info.uuid = format::to_string(header.uuid);
  info.model_sha256 = format::to_hex(header.model_sha256);
  info.save_mode = format::save_mode_name(header.save_mode);
  info.kv_dtype = kv_dtype(header.geometry);
  info.num_layers = header.geometry.num_layers();
  info.kv_heads = layer_range(header.geometry, &format::LayerGeometry::num_kv_heads);
  info.key_dim = layer_range(header.geometry, &format::LayerGeometry::key_dim);
  info.value_dim = layer_range(header.geometry, &format::LayerGeometry::value_dim);
  info.prompt_length = header.prompt_length;
  info.num_steps = recording.num_steps();
  info.num_tokens = recording.has_prefill() ? recording.num_steps() + 1 : 0;
  info.top_k = header.top_k;
  info.logits_sample = header.logits_sample;
  info.vocab_size = header.vocab_size;
  take_meta(recording.meta(), info);
  info.stop_reason = member_string(recording.summary(), "stop_reason");
  if (recording.summary().is_object() && recording.summary().contains("text")) {
    info.generated_text = member_string(recording.summary(), "text");
  }
  return info;
}

InfoResult read_info(const std::string& path, Observer& observer) {
  if (!std::filesystem::exists(path)) throw_usage(path + ": there is no such file or folder");
  InfoResult result;
  if (!std::filesystem::is_directory(path)) {
    result.recordings.push_back(read_recording_info(path));
    return result;
  }
  result.directory = true;
  for (const std::filesystem::path& each : recordings_below(path, observer)) {
    result.recordings.push_back(info_or_reason(each));
  }
  if (result.recordings.empty()) throw_usage(path + " holds no recording (*.kvc)");
  return result;
}

}  // namespace kvtool::run
