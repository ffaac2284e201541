#include "config_value.h"

#include <filesystem>
#include <limits>

#include "kvtool/base/error.h"
#include "kvtool/base/nearest.h"

namespace kvtool::cli {

using nlohmann::json;

void Value::fail(const std::string& expected) const {
  throw_usage(file + ": " + key + ": expected " + expected + ", found " + found());
}

std::string Value::found() const {
  return node.is_string() ? node.dump(-1, ' ', false, json::error_handler_t::replace)
                          : run::json_type_name(node);
}

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

}  // namespace kvtool::cli
