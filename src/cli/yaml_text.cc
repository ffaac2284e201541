#include "yaml_text.h"

#include <yaml-cpp/yaml.h>

#include <charconv>
#include <cmath>
#include <cstdint>

#include "kvtool/base/error.h"

namespace kvtool::cli {
namespace {

using nlohmann::json;

constexpr int kDeepest = 64;
constexpr std::size_t kMostValues = 100000;

template <typename Number>
std::optional<Number> number_of(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return number;
}

json plain_scalar(const std::string& text) {
  for (const char* null : {"", "~", "null", "Null", "NULL"}) {
    if (text == null) return nullptr;
  }
  for (const char* yes : {"true", "True", "TRUE"}) {
    if (text == yes) return true;
  }
  for (const char* no : {"false", "False", "FALSE"}) {
    if (text == no) return false;
  }
  if (const auto integer = number_of<std::int64_t>(text)) return *integer;
  // "inf" and "nan" are no numbers of YAML.
  const auto real = number_of<double>(text);
  if (real && std::isfinite(*real)) return *real;
  return text;
}

class YamlReader {
 public:
  explicit YamlReader(std::string subject) : subject_(std::move(subject)) {}

  json read(const YAML::Node& node, int depth = 0) {
    if (depth > kDeepest) fail(node.Mark(), "nested deeper than 64");
    if (++values_ > kMostValues) fail(node.Mark(), "more than 100000 values");
    switch (node.Type()) {
      case YAML::NodeType::Scalar:
        return node.Tag() == "!" || node.Tag() == "tag:yaml.org,2002:str"
                   ? json(node.Scalar())
                   : plain_scalar(node.Scalar());
      case YAML::NodeType::Sequence: {
        json array = json::array();
        for (const YAML::Node& item : node) array.push_back(read(item, depth + 1));
        return array;
      }
      case YAML::NodeType::Map: return map_of(node, depth);
      default: return nullptr;
    }
  }

  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& reason) const {
    throw_usage(subject_ + ":" + std::to_string(mark.line + 1) + ":" +
                std::to_string(mark.column + 1) + ": " + reason);
  }

 private:
  json map_of(const YAML::Node& node, int depth) {
    json object = json::object();
    for (const auto& member : node) {
      if (!member.first.IsScalar()) fail(member.first.Mark(), "a key has to be a string");
      const std::string& key = member.first.Scalar();
      if (object.contains(key)) fail(member.first.Mark(), "the key '" + key + "' is there twice");
      object[key] = read(member.second, depth + 1);
    }
    return object;
  }

  std::string subject_;
  std::size_t values_ = 0;
};

}  // namespace

json parse_yaml_text(std::string_view text, const std::string& subject) {
  YamlReader reader(subject);
  try {
    return reader.read(YAML::Load(std::string(text)));
  } catch (const YAML::Exception& error) {
    reader.fail(error.mark, error.msg);
  }
}

}  // namespace kvtool::cli
