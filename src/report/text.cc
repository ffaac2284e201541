#include "kvtool/report/text.h"

#include <spdlog/fmt/fmt.h>

#include <cstdint>

namespace kvtool::report {
namespace {

struct CodePoint {
  std::uint32_t value = 0;
  std::size_t length = 0;  // 0: the byte at the start is not valid UTF-8
};

bool is_continuation(std::string_view bytes, std::size_t index) {
  return index < bytes.size() && (static_cast<unsigned char>(bytes[index]) & 0xC0U) == 0x80U;
}

// Rejects overlong forms, surrogates and values above U+10FFFF (RFC 3629).
CodePoint decode(std::string_view bytes) {
  const auto byte = [&](std::size_t i) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[i]));
  };
  const std::uint32_t first = byte(0);
  if (first < 0x80U) return {first, 1};
  if (first >= 0xC2U && first <= 0xDFU && is_continuation(bytes, 1)) {
    return {(first & 0x1FU) << 6U | (byte(1) & 0x3FU), 2};
  }
  if (first >= 0xE0U && first <= 0xEFU && is_continuation(bytes, 1) && is_continuation(bytes, 2)) {
    const std::uint32_t value =
        (first & 0x0FU) << 12U | (byte(1) & 0x3FU) << 6U | (byte(2) & 0x3FU);
    const bool surrogate = value >= 0xD800U && value <= 0xDFFFU;
    return value >= 0x800U && !surrogate ? CodePoint{value, 3} : CodePoint{};
  }
  if (first >= 0xF0U && first <= 0xF4U && is_continuation(bytes, 1) && is_continuation(bytes, 2) &&
      is_continuation(bytes, 3)) {
    const std::uint32_t value = (first & 0x07U) << 18U | (byte(1) & 0x3FU) << 12U |
                                (byte(2) & 0x3FU) << 6U | (byte(3) & 0x3FU);
    return value >= 0x10000U && value <= 0x10FFFFU ? CodePoint{value, 4} : CodePoint{};
  }
  return {};
}

bool is_control(std::uint32_t value) { return value < 0x20U || (value >= 0x7FU && value <= 0x9FU); }

// Bidirectional overrides and isolates make shown text differ from its bytes.
bool reorders_text(std::uint32_t value) {
  return value == 0x200EU || value == 0x200FU || (value >= 0x202AU && value <= 0x202EU) ||
         (value >= 0x2066U && value <= 0x2069U);
}

std::string escaped(std::uint32_t value) {
  switch (value) {
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    default: break;
  }
  return value < 0x80U ? fmt::format("\\x{:02x}", value) : fmt::format("\\u{{{:x}}}", value);
}

}  // namespace

std::string printable(std::string_view bytes, Newlines newlines) {
  std::string result;
  result.reserve(bytes.size());
  while (!bytes.empty()) {
    const CodePoint point = decode(bytes);
    if (point.length == 0) {
      result += fmt::format("\\x{:02x}", static_cast<unsigned char>(bytes[0]));
      bytes.remove_prefix(1);
      continue;
    }
    const bool kept_newline = point.value == '\n' && newlines == Newlines::kKeep;
    if (!kept_newline && (is_control(point.value) || reorders_text(point.value))) {
      result += escaped(point.value);
    } else {
      result.append(bytes.substr(0, point.length));
    }
    bytes.remove_prefix(point.length);
  }
  return result;
}

std::string valid_utf8(std::string_view bytes) {
  std::string result;
  result.reserve(bytes.size());
  while (!bytes.empty()) {
    const CodePoint point = decode(bytes);
    if (point.length == 0) {
      result += "\xEF\xBF\xBD";
      bytes.remove_prefix(1);
      continue;
    }
    result.append(bytes.substr(0, point.length));
    bytes.remove_prefix(point.length);
  }
  return result;
}

std::string quote(std::string_view bytes) {
  return '"' + printable(bytes, Newlines::kEscape) + '"';
}

std::string shortened(std::string_view text, std::size_t max_characters) {
  std::size_t characters = 0;
  std::size_t cut = 0;  // byte length of max_characters - 1 characters
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (is_continuation(text, i)) continue;
    if (characters + 1 == max_characters) cut = i;
    if (++characters > max_characters) return std::string(text.substr(0, cut)) + "…";
  }
  return std::string(text);
}

std::string indented(std::string_view text, std::size_t spaces) {
  const std::string margin(spaces, ' ');
  std::string result = margin;
  for (const char c : text) {
    result += c;
    if (c == '\n') result += margin;
  }
  return result;
}

std::string counted(std::size_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

}  // namespace kvtool::report
