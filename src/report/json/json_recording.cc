// A recording in the JSON report, as `kvtool info` shows it.
#include "json/json_values.h"
#include "kvtool/base/text.h"

namespace kvtool::report {
namespace {

Json json_ratio(std::uint64_t packed, std::uint64_t original) {
  if (original == 0) return nullptr;
  return static_cast<double>(packed) / static_cast<double>(original);
}

}  // namespace

Json json_packing(const run::PackingResult& result) {
  Json recordings = Json::array();
  for (const run::PackedRecording& recording : result.recordings) {
    Json object = {{"path", json_text(recording.path)}};
    if (!recording.error.empty()) {
      object["error"] = json_text(recording.error);
    } else if (!recording.note.empty()) {
      object["note"] = json_text(recording.note);
    } else {
      object.update({{"original_bytes", recording.original_bytes},
                     {"packed_bytes", recording.packed_bytes},
                     {"ratio", json_ratio(recording.packed_bytes, recording.original_bytes)},
                     {"seconds", recording.seconds}});
    }
    recordings.push_back(std::move(object));
  }
  return {{"unpacked", result.unpacked},
          {"threads", result.threads},
          {"wall_seconds", result.wall_seconds},
          {"recordings", std::move(recordings)}};
}

Json json_recording(const run::RecordingInfo& info) {
  Json object = {{"path", json_text(info.path)}, {"bytes", info.bytes}};
  if (!info.error.empty()) {
    object["error"] = json_text(info.error);
    return object;
  }
  Json provenance = Json::object();
  for (const auto& [name, value] : info.provenance) {
    provenance[valid_utf8(name)] = json_text(value);
  }
  if (info.unpacked_bytes) {
    object["packed"] = {{"unpacked_bytes", *info.unpacked_bytes},
                        {"ratio", json_ratio(info.bytes, *info.unpacked_bytes)}};
  }
  object.update(
      {{"unfinished_name", info.partial_name},
       {"complete", info.complete},
       {"truncation", json_known(info.truncation)},
       {"uuid", json_known(info.uuid)},
       {"model",
        {{"id", json_known(info.model_id)},
         {"slug", json_known(info.model_slug)},
         {"dtype", json_known(info.model_dtype)},
         {"weights_sha256", json_known(info.model_sha256)},
         {"config_sha256", json_known(info.config_sha256)},
         {"graph_sha256", json_known(info.graph_sha256)}}},
       {"device",
        {{"label", json_known(info.device_label)}, {"name", json_known(info.device_name)}}},
       {"save_mode", info.save_mode},
       {"kv",
        {{"cache", json_known(info.kv_cache)},
         {"dtype", info.kv_dtype},
         {"layers", info.num_layers},
         {"heads", info.kv_heads},
         {"key_dim", info.key_dim},
         {"value_dim", info.value_dim}}},
       {"batch_size", json_known(info.batch_size)},
       {"input", json_known(info.input_index)},
       {"row", json_known(info.row)},
       {"rows", json_known(info.rows)},
       {"prompt_tokens", info.prompt_length},
       {"generated_tokens", info.num_tokens},
       {"steps", info.num_steps},
       {"stop_reason", json_known(info.stop_reason)},
       {"top_k", info.top_k},
       {"logits_sample", info.logits_sample},
       {"vocab_size", info.vocab_size},
       {"created_utc", json_known(info.created_utc)},
       {"kvtool_version", json_known(info.kvtool_version)},
       {"torch_version", json_known(info.torch_version)},
       {"replay_of", json_known(info.replay_of)},
       {"replay_mode", json_known(info.replay_mode)},
       {"numerics", json_numerics(info.numerics)},
       {"provenance", std::move(provenance)},
       {"prompt_text", json_text(info.prompt_text)},
       {"generated_text", info.generated_text ? json_text(*info.generated_text) : Json(nullptr)}});
  return object;
}

}  // namespace kvtool::report
