// Structs as JSON objects: one table of fields a struct serves both directions. Reading is
// strict: every field stands there once with its own type, and nothing else does.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kvtool/base/error.h"
#include "kvtool/base/text.h"
#include "kvtool/run/prompts.h"

namespace kvtool::run {

// Specialised for every type that a field may have: write() makes JSON of a value, read()
// throws Error kUsage that begins with `where`.
template <typename T>
struct JsonCodec;

[[noreturn]] inline void fail_to_read(const std::string& where, const std::string& expected,
                                      const nlohmann::json& found) {
  throw_usage(where + ": expected " + expected + ", found " + json_type_name(found));
}

template <>
struct JsonCodec<bool> {
  static nlohmann::json write(bool value) { return value; }
  static bool read(const nlohmann::json& value, const std::string& where) {
    if (!value.is_boolean()) fail_to_read(where, "true or false", value);
    return value.get<bool>();
  }
};

template <std::integral T>
struct JsonCodec<T> {
  static nlohmann::json write(T value) { return value; }
  static T read(const nlohmann::json& value, const std::string& where) {
    const bool fits = value.is_number_unsigned() ? std::in_range<T>(value.get<std::uint64_t>())
                                                 : value.is_number_integer() &&
                                                       std::in_range<T>(value.get<std::int64_t>());
    if (!fits) fail_to_read(where, "an integer of its range", value);
    return value.get<T>();
  }
};

// JSON has no infinity: null stands for what is not finite, and is read as infinity.
template <>
struct JsonCodec<double> {
  static nlohmann::json write(double value) {
    return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr);
  }
  static double read(const nlohmann::json& value, const std::string& where) {
    if (value.is_null()) return std::numeric_limits<double>::infinity();
    if (!value.is_number()) fail_to_read(where, "a number", value);
    return value.get<double>();
  }
};

// Error kUsage for bytes that are no UTF-8: replaced, a path would be another one.
template <>
struct JsonCodec<std::string> {
  static nlohmann::json write(const std::string& value) {
    if (valid_utf8(value) != value) {
      throw_usage("'" + value + "' is not valid UTF-8 and cannot be handed to another process");
    }
    return value;
  }
  static std::string read(const nlohmann::json& value, const std::string& where) {
    if (!value.is_string()) fail_to_read(where, "a string", value);
    return value.get<std::string>();
  }
};

template <>
struct JsonCodec<std::filesystem::path> {
  static nlohmann::json write(const std::filesystem::path& value) {
    return JsonCodec<std::string>::write(value.string());
  }
  static std::filesystem::path read(const nlohmann::json& value, const std::string& where) {
    return JsonCodec<std::string>::read(value, where);
  }
};

template <typename T>
struct JsonCodec<std::optional<T>> {
  static nlohmann::json write(const std::optional<T>& value) {
    return value ? JsonCodec<T>::write(*value) : nlohmann::json(nullptr);
  }
  static std::optional<T> read(const nlohmann::json& value, const std::string& where) {
    if (value.is_null()) return std::nullopt;
    return JsonCodec<T>::read(value, where);
  }
};

template <typename T>
struct JsonCodec<std::vector<T>> {
  static nlohmann::json write(const std::vector<T>& values) {
    nlohmann::json array = nlohmann::json::array();
    for (const T& value : values) array.push_back(JsonCodec<T>::write(value));
    return array;
  }
  static std::vector<T> read(const nlohmann::json& value, const std::string& where) {
    if (!value.is_array()) fail_to_read(where, "an array", value);
    std::vector<T> values;
    for (std::size_t i = 0; i < value.size(); ++i) {
      values.push_back(JsonCodec<T>::read(value[i], where + "[" + std::to_string(i) + "]"));
    }
    return values;
  }
};

template <typename T>
struct JsonCodec<std::map<std::string, T>> {
  static nlohmann::json write(const std::map<std::string, T>& values) {
    nlohmann::json object = nlohmann::json::object();
    for (const auto& [name, value] : values) object[name] = JsonCodec<T>::write(value);
    return object;
  }
  static std::map<std::string, T> read(const nlohmann::json& value, const std::string& where) {
    if (!value.is_object()) fail_to_read(where, "an object", value);
    std::map<std::string, T> values;
    for (const auto& [name, each] : value.items()) {
      values.emplace(name, JsonCodec<T>::read(each, where + "." + name));
    }
    return values;
  }
};

template <typename Struct>
struct JsonField {
  const char* name;
  nlohmann::json (*write)(const Struct& object);
  void (*read)(const nlohmann::json& value, const std::string& where, Struct& object);
};

template <typename Struct, typename T>
Struct struct_of(T Struct::*);
template <typename Struct, typename T>
T value_of(T Struct::*);

template <auto kMember>
constexpr auto json_field(const char* name) {
  using Struct = decltype(struct_of(kMember));
  using Codec = JsonCodec<decltype(value_of(kMember))>;
  return JsonField<Struct>{name, [](const Struct& object) { return Codec::write(object.*kMember); },
                           [](const nlohmann::json& value, const std::string& where,
                              Struct& object) { object.*kMember = Codec::read(value, where); }};
}

// Specialised for every struct: `static constexpr std::array kTable` of json_field()s.
template <typename Struct>
struct JsonFields;

template <typename Struct>
  requires requires { JsonFields<Struct>::kTable; }
struct JsonCodec<Struct> {
  static nlohmann::json write(const Struct& object) {
    nlohmann::json result = nlohmann::json::object();
    for (const auto& field : JsonFields<Struct>::kTable) result[field.name] = field.write(object);
    return result;
  }
  static Struct read(const nlohmann::json& value, const std::string& where) {
    if (!value.is_object()) fail_to_read(where, "an object", value);
    Struct result;
    for (const auto& field : JsonFields<Struct>::kTable) {
      const auto member = value.find(field.name);
      if (member == value.end()) throw_usage(where + ": " + field.name + " is missing");
      field.read(*member, where + "." + field.name, result);
    }
    for (const auto& member : value.items()) {
      const std::string& name = member.key();
      const auto is_it = [&](const auto& field) { return name == field.name; };
      if (std::ranges::any_of(JsonFields<Struct>::kTable, is_it)) continue;
      throw_usage(where + ": unknown key '" + name + "'");
    }
    return result;
  }
};

}  // namespace kvtool::run
