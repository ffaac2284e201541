#include "bounded_json.h"

#include "kvtool/base/error.h"
#include "layout.h"

namespace kvtool::format {

nlohmann::json parse_json_object(std::string_view text) {
  using nlohmann::json;
  std::size_t values = 0;
  const auto limit = [&values](int depth, json::parse_event_t event, json&) {
    const bool opens =
        event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
    // `depth` counts the containers around the one that opens here.
    if (opens && depth >= kMaxJsonDepth) {
      throw_corrupt("JSON nested deeper than " + std::to_string(kMaxJsonDepth));
    }
    if (++values > 2 * kMaxJsonValues) {
      throw_corrupt("JSON with more than " + std::to_string(kMaxJsonValues) + " values");
    }
    return true;
  };
  try {
    json value = json::parse(text.begin(), text.end(), limit);
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
