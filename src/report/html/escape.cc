#include "html/escape.h"

#include <nlohmann/json.hpp>

#include "kvtool/base/text.h"

namespace kvtool::report::html {

namespace {

constexpr std::string_view kLineSeparator = "\u2028";
constexpr std::string_view kParagraphSeparator = "\u2029";

// Either separator at the start of `rest`, else empty; both have the same size.
std::string_view separator(std::string_view rest) {
  for (const std::string_view found : {kLineSeparator, kParagraphSeparator}) {
    if (rest.starts_with(found)) return found;
  }
  return {};
}

}  // namespace

std::string text(std::string_view bytes) {
  std::string result;
  const std::string shown = printable(bytes);
  for (std::size_t i = 0; i < shown.size(); ++i) {
    const std::string_view found = separator(std::string_view(shown).substr(i));
    if (!found.empty()) {
      result += found == kLineSeparator ? "\\u{2028}" : "\\u{2029}";
      i += found.size() - 1;
      continue;
    }
    switch (shown[i]) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '"': result += "&quot;"; break;
      case '\'': result += "&#39;"; break;
      default: result += shown[i];
    }
  }
  return result;
}

// Outside of strings JSON has none of these characters, so that a replacement
// in the finished document always falls into a string.
std::string script_json(const nlohmann::json& document) {
  const std::string plain = document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::string result;
  result.reserve(plain.size());
  for (std::size_t i = 0; i < plain.size(); ++i) {
    const std::string_view found = separator(std::string_view(plain).substr(i));
    if (!found.empty()) {
      result += found == kLineSeparator ? "\\u2028" : "\\u2029";
      i += found.size() - 1;
      continue;
    }
    switch (plain[i]) {
      case '<': result += "\\u003c"; break;
      case '>': result += "\\u003e"; break;
      case '&': result += "\\u0026"; break;
      default: result += plain[i];
    }
  }
  return result;
}

}  // namespace kvtool::report::html
