#include "config.h"

#include <algorithm>
#include <cctype>

#include "choices.h"
#include "config_value.h"
#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/run/load_gate.h"

namespace kvtool::cli {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{16} << 20U;

format::SaveMode as_save_mode(const Value& value) {
  const auto mode = value.node.is_string() ? format::parse_save_mode(value.node.get<std::string>())
                                           : std::nullopt;
  if (!mode) value.fail(one_of(format::kSaveModes));
  return *mode;
}

cache::CacheSpec as_cache_spec(const Value& value) {
  const std::string text = as_name(value);
  try {
    return cache::CacheSpec::parse(text);
  } catch (const Error& error) {
    throw_usage(value.file + ": " + value.key + ": " + error.message());
  }
}

bool as_enable(const Value& value) {
  std::string text = value.node.is_string() ? value.node.get<std::string>() : std::string();
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (text != "enable" && text != "disable") value.fail("\"Enable\" or \"Disable\"");
  return text == "enable";
}

std::vector<std::uint64_t> as_batch_sizes(const Value& value) {
  if (value.node.is_number()) return {as_count(value)};
  return as_list<std::uint64_t>(value, "an integer or an array of integers", as_count);
}

format::ReplayMode as_replay_mode(const Value& value) {
  const auto mode = value.node.is_string()
                        ? format::parse_replay_mode(value.node.get<std::string>())
                        : std::nullopt;
  if (!mode) value.fail(one_of(format::kReplayModes));
  return *mode;
}

std::vector<format::ReplayMode> as_replay_modes(const Value& value) {
  if (value.node.is_string()) return {as_replay_mode(value)};
  std::vector<format::ReplayMode> modes = as_list<format::ReplayMode>(
      value, "a replay mode or an array of replay modes", as_replay_mode);
  if (modes.empty()) value.fail("at least one replay mode");
  return modes;
}

// A file is looked for beside the configuration first, as prompts are.
analysis::GateSpec as_gate(const Value& value) {
  if (value.node.is_object()) {
    return analysis::GateSpec::parse(value.node, value.file + ": " + value.key);
  }
  if (!value.node.is_string()) value.fail("a gate's name, a gate file or an object");
  const std::string name = as_name(value);
  const std::filesystem::path beside = std::filesystem::path(value.file).parent_path() / name;
  return run::load_gate(std::filesystem::is_regular_file(beside) ? beside.string() : name);
}

void apply_kv_cache(const Value& object, KvCacheConfig& target) {
  apply(
      object,
      {{"policy", [&](const Value& v) { target.policy = as_cache_spec(v); }},
       {"save", [&](const Value& v) { target.save = as_bool(v); }},
       {"save_mode", [&](const Value& v) { target.save_mode = as_save_mode(v); }},
       {"load", [&](const Value& v) { target.load = as_bool(v); }},
       {"load_from_device", [&](const Value& v) { target.load_from_device = as_name(v); }},
       {"load_from_batch_size", [&](const Value& v) { target.load_from_batch_size = as_count(v); }},
       {"load_base_dir", [&](const Value& v) { target.load_base_dir = as_name(v); }},
       {"replay_modes", [&](const Value& v) { target.replay_modes = as_replay_modes(v); }},
       {"base_dir", [&](const Value& v) { target.base_dir = as_name(v); }},
       {"resume", [&](const Value& v) { target.resume = as_bool(v); }},
       {"fsync", [&](const Value& v) { target.fsync = as_bool(v); }},
       {"fsync_every", [&](const Value& v) { target.fsync_every = as_count(v); }}});
}

}  // namespace

Config parse_config(std::string_view text, const std::filesystem::path& path) {
  const std::string file = path.string();
  const json document = run::parse_json_text(text, file, /*ignore_comments=*/true);
  if (!document.is_object()) {
    throw_usage(file + ": expected an object { ... }, found " + run::json_type_name(document));
  }
  Config config;
  config.path = path;
  apply({document, file, ""},
        {{"models",
          [&](const Value& v) {
            config.models = as_list<std::string>(v, "an array of strings", as_name);
          }},
         {"batch_size", [&](const Value& v) { config.batch_sizes = as_batch_sizes(v); }},
         {"request_number", [&](const Value& v) { config.request_number = as_count(v); }},
         {"max_new_tokens", [&](const Value& v) { config.max_new_tokens = as_count(v); }},
         {"cpu", [&](const Value& v) { config.force_cpu = as_enable(v); }},
         {"prompts", [&](const Value& v) { config.prompts = as_prompts(v); }},
         {"gate", [&](const Value& v) { config.gate = as_gate(v); }},
         {"kv_cache", [&](const Value& v) { apply_kv_cache(v, config.kv_cache); }}});
  return config;
}

Config load_config(const std::filesystem::path& path) {
  return parse_config(read_text_file(path, kMaxConfigBytes), path);
}

}  // namespace kvtool::cli
