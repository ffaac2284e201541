#include "bounded_json.h"

#include <nlohmann/json.hpp>

#include "kvtool/base/error.h"
#include "layout.h"

namespace kvtool::format {
namespace {

using nlohmann::json;

// Counts before a tree is built. The parser's own callback would do too, but with one it
// searches an array from its start whenever an element ends.
class Limits final : public nlohmann::json_sax<json> {
 public:
  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t) override { return value(); }
  bool number_unsigned(number_unsigned_t) override { return value(); }
  bool number_float(number_float_t, const string_t&) override { return value(); }
  bool string(string_t&) override { return value(); }
  bool binary(binary_t&) override { return value(); }
  bool start_object(std::size_t) override { return open(); }
  bool key(string_t&) override { return true; }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(); }
  bool end_array() override { return close(); }
  // Left to the parser that builds the tree, which comes to the same place.
  bool parse_error(std::size_t, const std::string&, const json::exception&) override {
    return false;
  }

 private:
  bool value() {
    if (++values_ > kMaxJsonValues) {
      throw_corrupt("JSON with more than " + std::to_string(kMaxJsonValues) + " values");
    }
    return true;
  }
  bool open() {
    if (++depth_ > kMaxJsonDepth) {
      throw_corrupt("JSON nested deeper than " + std::to_string(kMaxJsonDepth));
    }
    return value();
  }
  bool close() {
    --depth_;
    return true;
  }

  int depth_ = 0;
  std::size_t values_ = 0;
};

}  // namespace

nlohmann::json parse_json_object(std::string_view text) {
  try {
    Limits limits;
    static_cast<void>(json::sax_parse(text.begin(), text.end(), &limits));
    json value = json::parse(text.begin(), text.end());
    if (!value.is_object()) throw_corrupt("JSON is not an object");
    return value;
  } catch (const json::exception& error) {
    throw_corrupt(std::string("invalid JSON: ") + error.what());
  }
}

std::string dump_json_object(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > kMaxJsonBytes) {
    throw_usage("JSON of " + std::to_string(text.size()) + " bytes, at most " +
                std::to_string(kMaxJsonBytes) + " fit into a recording");
  }
  try {
    static_cast<void>(parse_json_object(text));
  } catch (const Error& error) {
    throw_usage(error.what());
  }
  return text;
}

}  // namespace kvtool::format
