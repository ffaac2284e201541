// Values of a configuration, whatever file it is of: where each stands, its type, and which keys
// there are.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kvtool/run/prompts.h"

namespace kvtool::cli {

// One JSON value together with where it stands, for messages.
struct Value {
  const nlohmann::json& node;
  std::string file;
  std::string key;  // "kv_cache.save_mode"

  // Error kUsage.
  [[noreturn]] void fail(const std::string& expected) const;
  [[nodiscard]] std::string found() const;
};

// Of the right type, or an Error kUsage that names file and key.
[[nodiscard]] std::string as_string(const Value& value);
[[nodiscard]] std::string as_name(const Value& value);  // not empty
[[nodiscard]] bool as_bool(const Value& value);
[[nodiscard]] std::uint64_t as_count(const Value& value);  // 1 to the largest int32
// An array of prompts, or the name of a file of them beside the configuration.
[[nodiscard]] std::vector<run::Prompt> as_prompts(const Value& value);

template <typename T>
std::vector<T> as_list(const Value& value, const char* expected, T (*item)(const Value&)) {
  if (!value.node.is_array()) value.fail(expected);
  std::vector<T> result;
  for (std::size_t i = 0; i < value.node.size(); ++i) {
    result.push_back(item({value.node[i], value.file, value.key + "[" + std::to_string(i) + "]"}));
  }
  return result;
}

using Setters = std::map<std::string, std::function<void(const Value&)>>;

// Hands each member to its setter; null leaves a key at its default. Error kUsage for a key without
// a setter, with the nearest that has one.
void apply(const Value& object, const Setters& setters);

}  // namespace kvtool::cli
