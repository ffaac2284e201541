#include "run_meta.h"

#include "kvtool/base/error.h"

namespace kvtool::run {
namespace {

using nlohmann::json;

// Bounds what a hostile file can make a replay allocate.
constexpr std::uint64_t kMaxRows = 65536;
constexpr std::uint64_t kMaxPositions = std::uint64_t{1} << 31U;

std::uint64_t count(const json& run, const char* key, const std::string& subject) {
  const auto member = run.find(key);
  if (member == run.end() || !member->is_number_unsigned()) {
    throw_corrupt(subject + ": META.run." + key + " is missing or not a number");
  }
  return member->get<std::uint64_t>();
}

void check(const RunMeta& run, std::uint64_t prompt_length, const std::string& subject) {
  if (run.rows == 0 || run.rows > kMaxRows || run.row >= run.rows) {
    throw_corrupt(subject + ": META.run says row " + std::to_string(run.row) + " of " +
                  std::to_string(run.rows));
  }
  if (run.padded_length < prompt_length || run.padded_length > run.cache_capacity ||
      run.cache_capacity > kMaxPositions) {
    throw_corrupt(subject + ": META.run says " + std::to_string(run.padded_length) +
                  " padded positions in a cache of " + std::to_string(run.cache_capacity) +
                  " for a prompt of " + std::to_string(prompt_length));
  }
  if (run.input_index < run.row) {
    throw_corrupt(subject + ": META.run says input " + std::to_string(run.input_index) +
                  " in row " + std::to_string(run.row));
  }
}

json parsed_object(const std::string& text) {
  json parsed = json::parse(text, nullptr, false);
  return parsed.is_object() ? parsed : json::object();
}

json model_json(const engine::ModelInfo& info) {
  json model = {{"id", info.model_id},
                {"slug", info.slug},
                {"architecture", info.architecture},
                {"dtype", info.dtype},
                {"weights_sha256", format::to_hex(info.weights_sha256)},
                {"max_positions", info.max_positions}};
  const json metadata = parsed_object(info.metadata_json);
  for (const char* key :
       {"torch_version", "transformers_version", "exporter_version", "quantized_from"}) {
    if (metadata.contains(key)) model[key] = metadata[key];
  }
  return model;
}

}  // namespace

json to_json(const RunMeta& run) {
  return {{"batch_id", run.batch_id},
          {"batch_size", run.batch_size},
          {"batch_index", run.batch_index},
          {"row", run.row},
          {"rows", run.rows},
          {"input_index", run.input_index},
          {"padded_length", run.padded_length},
          {"padding", run.padding},
          {"cache_capacity", run.cache_capacity},
          {"max_new_tokens", run.max_new_tokens},
          {"ignore_eos", run.ignore_eos}};
}

std::optional<RunMeta> parse_run_meta(const json& meta, std::uint64_t prompt_length,
                                      const std::string& subject) {
  if (!meta.is_object() || !meta.contains("run")) return std::nullopt;
  const json& object = meta["run"];
  if (!object.is_object()) throw_corrupt(subject + ": META.run is not an object");
  RunMeta run;
  const auto batch_id = object.find("batch_id");
  if (batch_id == object.end() || !batch_id->is_string()) {
    throw_corrupt(subject + ": META.run.batch_id is missing or not a string");
  }
  run.batch_id = batch_id->get<std::string>();
  run.batch_size = count(object, "batch_size", subject);
  run.batch_index = count(object, "batch_index", subject);
  run.row = count(object, "row", subject);
  run.rows = count(object, "rows", subject);
  run.input_index = count(object, "input_index", subject);
  run.padded_length = count(object, "padded_length", subject);
  run.cache_capacity = count(object, "cache_capacity", subject);
  run.max_new_tokens = count(object, "max_new_tokens", subject);
  const auto ignore_eos = object.find("ignore_eos");
  run.ignore_eos = ignore_eos != object.end() && ignore_eos->is_boolean() && *ignore_eos;
  check(run, prompt_length, subject);
  run.padding = run.padded_length - prompt_length;
  return run;
}

json make_meta(const MetaParts& parts) {
  return {{"kvtool", parts.kvtool_version},
          {"created_utc", parts.created_utc},
          {"model", model_json(*parts.model)},
          {"device",
           {{"label", parts.device_label},
            {"type", parts.device->type},
            {"name", parts.device->name},
            {"provenance", parsed_object(parts.device->provenance_json)}}},
          {"run", to_json(parts.run)},
          {"prompt", parts.prompt}};
}

std::string meta_string(const json& meta, const char* group, const char* key) {
  if (!meta.is_object() || !meta.contains(group)) return {};
  const json& object = meta[group];
  if (!object.is_object() || !object.contains(key) || !object[key].is_string()) return {};
  return object[key].get<std::string>();
}

}  // namespace kvtool::run
