#include "config.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <limits>
#include <map>
#include <utility>

#include "choices.h"
#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/base/nearest.h"
#include "kvtool/run/load_gate.h"

namespace kvtool::cli {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{16} << 20U;

// One JSON value together with where it stands, for messages.
struct Value {
  const json& node;
  std::string file;
  std::string key;  // "kv_cache.save_mode"

  [[noreturn]] void fail(const std::string& expected) const {
    throw_usage(file + ": " + key + ": expected " + expected + ", found " + found());
  }
  [[nodiscard]] std::string found() const {
    return node.is_string() ? node.dump(-1, ' ', false, json::error_handler_t::replace)
                            : run::json_type_name(node);
  }
};

std::string as_string(const Value& value) {
  if (!value.node.is_string()) value.fail("a string");
  return value.node.get<std::string>();
}

std::string as_name(const Value& value) {
  std::string name = as_string(value);
  if (name.empty()) value.fail("a non-empty string");
  return name;
}

bool as_bool(const Value& value) {
  if (!value.node.is_boolean()) value.fail("true or false");
  return value.node.get<bool>();
}

std::uint64_t as_count(const Value& value) {
  const bool fits = value.node.is_number_integer() && value.node >= 1 &&
                    value.node <= std::numeric_limits<std::int32_t>::max();
  if (!fits) {
    value.fail("an integer from 1 to " + std::to_string(std::numeric_limits<std::int32_t>::max()));
  }
  return value.node.get<std::uint64_t>();
}

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

template <typename T>
std::vector<T> as_list(const Value& value, const char* expected, T (*item)(const Value&)) {
  if (!value.node.is_array()) value.fail(expected);
  std::vector<T> result;
  for (std::size_t i = 0; i < value.node.size(); ++i) {
    result.push_back(item({value.node[i], value.file, value.key + "[" + std::to_string(i) + "]"}));
  }
  return result;
}

std::vector<std::uint64_t> as_batch_sizes(const Value& value) {
  if (value.node.is_number()) return {as_count(value)};
  return as_list<std::uint64_t>(value, "an integer or an array of integers", as_count);
}

std::vector<run::Prompt> as_prompts(const Value& value) {
  if (value.node.is_string()) {
    const std::filesystem::path folder = std::filesystem::path(value.file).parent_path();
    return run::load_prompts_file(folder / as_name(value));
  }
  if (!value.node.is_array()) value.fail("an array of prompts or the name of a .jsonl file");
  std::vector<run::Prompt> prompts;
  for (std::size_t i = 0; i < value.node.size(); ++i) {
    prompts.push_back(run::parse_prompt(
        value.node[i], value.file + ": " + value.key + "[" + std::to_string(i) + "]"));
  }
  return prompts;
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

using Setters = std::map<std::string, std::function<void(const Value&)>>;

// null leaves a key at its default.
void apply(const Value& object, const Setters& setters) {
  if (!object.node.is_object()) object.fail("an object");
  std::vector<std::string> known;
  for (const auto& [name, unused] : setters) known.push_back(name);
  for (const auto& [name, value] : object.node.items()) {
    const std::string key = object.key.empty() ? name : object.key + "." + name;
    const auto setter = setters.find(name);
    if (setter == setters.end()) {
      throw_usage(object.file + ": unknown key '" + key + "'" + suggestion(name, known));
    }
    if (!value.is_null()) setter->second({value, object.file, key});
  }
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
