#include "kvtool/run/recording_info.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kvtool/run/paths.h"
#include "kvtool/base/error.h"
#include "kvtool/format/reader.h"
#include "run_meta.h"

namespace kvtool::run {
namespace {

using nlohmann::json;

std::string member_string(const json& object, const char* key) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_string()) return {};
  return object[key].get<std::string>();
}

std::optional<std::uint64_t> run_number(const json& meta, const char* key) {
  if (!meta.is_object() || !meta.contains("run") || !meta["run"].is_object()) return std::nullopt;
  const json& run = meta["run"];
  if (!run.contains(key) || !run[key].is_number_unsigned()) return std::nullopt;
  return run[key].get<std::uint64_t>();
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

std::string text_of(const json& value) {
  return value.is_string() ? value.get<std::string>()
                           : value.dump(-1, ' ', false, json::error_handler_t::replace);
}

// "cpu_isa" -> "cpu isa".
std::string readable(std::string key) {
  std::replace(key.begin(), key.end(), '_', ' ');
  return key;
}

// Where the numbers come from: versions of the exporter's libraries, then all
// that the device said of itself. META may come from anywhere.
void take_provenance(const json& meta, RecordingInfo& info) {
  const auto take = [&](const json& object, const std::string& prefix, const char* key) {
    if (!object.is_object() || !object.contains(key) || object[key].is_null()) return;
    if (object[key].is_structured()) return;
    info.provenance.emplace_back(prefix + readable(key), text_of(object[key]));
  };
  if (!meta.is_object()) return;
  const json model = meta.value("model", json());
  take(model, "", "exporter_version");
  take(model, "exported with ", "torch_version");
  take(model, "exported with ", "transformers_version");
  take(model, "", "quantized_from");
  const json device = meta.value("device", json());
  const json provenance = device.is_object() ? device.value("provenance", json()) : json();
  if (!provenance.is_object()) return;
  for (const auto& [key, unused] : provenance.items()) take(provenance, "", key.c_str());
}

void take_meta(const json& meta, RecordingInfo& info) {
  info.model_id = meta_string(meta, "model", "id");
  info.model_slug = meta_string(meta, "model", "slug");
  info.model_dtype = meta_string(meta, "model", "dtype");
  info.device_label = meta_string(meta, "device", "label");
  info.device_name = meta_string(meta, "device", "name");
  info.prompt_text = meta_string(meta, "prompt", "text");
  info.replay_of = meta_string(meta, "replay_of", "path");
  info.replay_mode = meta_string(meta, "replay_of", "mode");
  take_provenance(meta, info);
  info.created_utc = member_string(meta, "created_utc");
  info.kvtool_version = member_string(meta, "kvtool");
  if (meta.is_object() && meta.contains("device") && meta["device"].is_object()) {
    info.torch_version = meta_string(meta["device"], "provenance", "torch_version");
  }
  info.batch_size = run_number(meta, "batch_size");
  info.row = run_number(meta, "row");
  info.rows = run_number(meta, "rows");
  info.input_index = run_number(meta, "input_index");
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
  info.vocab_size = header.vocab_size;
  take_meta(recording.meta(), info);
  info.stop_reason = member_string(recording.summary(), "stop_reason");
  if (recording.summary().is_object() && recording.summary().contains("text")) {
    info.generated_text = member_string(recording.summary(), "text");
  }
  return info;
}

InfoResult read_info(const std::string& path) {
  if (!std::filesystem::exists(path)) throw_usage(path + ": there is no such file or folder");
  InfoResult result;
  if (!std::filesystem::is_directory(path)) {
    result.recordings.push_back(read_recording_info(path));
    return result;
  }
  result.directory = true;
  for (const std::filesystem::path& each : recordings_below(path)) {
    result.recordings.push_back(info_or_reason(each));
  }
  if (result.recordings.empty()) throw_usage(path + " holds no recording (*.kvc)");
  return result;
}

}  // namespace kvtool::run
