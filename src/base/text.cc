#include "kvtool/base/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <utility>

namespace kvtool {
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
  return value == 0x061CU || value == 0x200EU || value == 0x200FU ||
         (value >= 0x202AU && value <= 0x202EU) || (value >= 0x2066U && value <= 0x2069U);
}

std::string hex(std::uint32_t value) {
  std::array<char, 8> digits{};
  const auto [end, error] =
      std::to_chars(digits.data(), digits.data() + digits.size(), value, /*base=*/16);
  return {digits.data(), end};
}

std::string byte_escape(std::uint32_t value) {
  return (value < 0x10U ? "\\x0" : "\\x") + hex(value);
}

std::string escaped(std::uint32_t value) {
  switch (value) {
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    default: break;
  }
  return value < 0x80U ? byte_escape(value) : "\\u{" + hex(value) + "}";
}

// What Markdown or GitHub's dialect gives a meaning; the rest of ASCII cannot
// start anything inside a line.
bool is_markdown_markup(char c) {
  return std::string_view("&<>`*_~[]|\\$@#").find(c) != std::string_view::npos;
}

// GitHub makes links out of rendered text too (@user, #1, URLs), so a character
// reference alone does not stop them. Whether text[index] must be kept apart
// from what comes before ("www." is a link as it stands in the source) ...
bool breaks_before(std::string_view text, std::size_t index) {
  if (text[index] != '.' || index < 3) return false;
  const std::string_view before = text.substr(index - 3, 3);
  return std::all_of(before.begin(), before.end(), [](char c) { return c == 'w' || c == 'W'; });
}
// ... or from what comes after.
bool breaks_after(std::string_view text, std::size_t index) {
  return text[index] == '@' || text[index] == '#' || text.substr(index).starts_with("://");
}

struct Range {
  std::uint32_t first;
  std::uint32_t last;
};

template <std::size_t N>
bool is_in(const std::array<Range, N>& ranges, std::uint32_t value) {
  return std::any_of(ranges.begin(), ranges.end(), [&](const Range& range) {
    return value >= range.first && value <= range.last;
  });
}

// Blocks of East Asian Width W and F (Unicode UAX #11), and emoji.
constexpr std::array<Range, 15> kWide = {{{0x1100, 0x115F},
                                          {0x2E80, 0x303E},
                                          {0x3041, 0x33FF},
                                          {0x3400, 0x4DBF},
                                          {0x4E00, 0x9FFF},
                                          {0xA000, 0xA4CF},
                                          {0xA960, 0xA97F},
                                          {0xAC00, 0xD7A3},
                                          {0xF900, 0xFAFF},
                                          {0xFE30, 0xFE6F},
                                          {0xFF00, 0xFF60},
                                          {0xFFE0, 0xFFE6},
                                          {0x1F300, 0x1F64F},
                                          {0x1F680, 0x1F9FF},
                                          {0x20000, 0x3FFFD}}};
constexpr std::array<Range, 5> kCombining = {
    {{0x0300, 0x036F}, {0x200B, 0x200D}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}, {0xFE20, 0xFE2F}}};

// One unit that a line break must not split.
struct Glyph {
  std::size_t bytes = 1;
  std::size_t columns = 1;
};

Glyph first_glyph(std::string_view text) {
  if (text.starts_with("\x1b[")) {
    const std::size_t end = text.find('m');
    if (end != std::string_view::npos) return {end + 1, 0};
  }
  const CodePoint point = decode(text);
  if (point.length == 0 || is_in(kCombining, point.value)) {
    return {std::max<std::size_t>(point.length, 1), 0};
  }
  return {point.length, is_in(kWide, point.value) ? 2U : 1U};
}

// Bytes of `line` that fit into `columns`: up to the last space when something
// is left over, at least one glyph.
std::size_t fitting_bytes(std::string_view line, std::size_t columns) {
  std::size_t used = 0;
  std::size_t bytes = 0;
  std::size_t after_space = 0;
  bool word_seen = false;
  while (bytes < line.size()) {
    const Glyph glyph = first_glyph(line.substr(bytes));
    const bool space = line[bytes] == ' ';
    // A space at the end of a line takes no column: it is not shown.
    if (used + glyph.columns > columns && !space && bytes > 0) {
      return after_space > 0 ? after_space : bytes;
    }
    word_seen = word_seen || !space;
    bytes += glyph.bytes;
    used += glyph.columns;
    if (space && word_seen) after_space = bytes;
  }
  return bytes;
}

void wrap_line(std::string_view line, std::size_t columns, std::size_t hanging,
               std::string& result) {
  std::size_t available = columns;
  while (true) {
    const std::size_t bytes = fitting_bytes(line, available);
    std::string_view part = line.substr(0, bytes);
    line.remove_prefix(bytes);
    if (line.empty()) {
      result += part;
      return;
    }
    while (part.ends_with(' ')) part.remove_suffix(1);
    result += part;
    result += '\n';
    result.append(hanging, ' ');
    available = columns > hanging ? columns - hanging : 1;
  }
}

}  // namespace

std::string printable(std::string_view bytes, Newlines newlines) {
  std::string result;
  result.reserve(bytes.size());
  while (!bytes.empty()) {
    const CodePoint point = decode(bytes);
    if (point.length == 0) {
      result += byte_escape(static_cast<unsigned char>(bytes[0]));
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

std::string escape_markdown(std::string_view bytes) {
  const std::string text = printable(bytes, Newlines::kEscape);
  std::string result;
  result.reserve(text.size());
  constexpr const char* kZeroWidthSpace = "&#8203;";
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (breaks_before(text, i)) result += kZeroWidthSpace;
    if (is_markdown_markup(text[i])) {
      result += "&#" + std::to_string(static_cast<int>(text[i])) + ";";
    } else {
      result += text[i];
    }
    if (breaks_after(text, i)) result += kZeroWidthSpace;
  }
  return result;
}

std::string xml_text(std::string_view bytes) {
  std::string text = printable(bytes);
  for (const auto& [forbidden, shown] :
       {std::pair{"\xEF\xBF\xBE", "\\u{fffe}"}, std::pair{"\xEF\xBF\xBF", "\\u{ffff}"}}) {
    for (std::size_t at = 0; (at = text.find(forbidden, at)) != std::string::npos;) {
      text.replace(at, 3, shown);
    }
  }
  return text;
}

std::size_t display_columns(std::string_view text) {
  std::size_t columns = 0;
  while (!text.empty()) {
    const Glyph glyph = first_glyph(text);
    columns += glyph.columns;
    text.remove_prefix(glyph.bytes);
  }
  return columns;
}

std::string wrapped(std::string_view text, std::size_t columns, std::size_t hanging) {
  std::string result;
  result.reserve(text.size() + text.size() / 40);
  while (true) {
    const std::size_t end = text.find('\n');
    wrap_line(text.substr(0, end), columns, hanging, result);
    if (end == std::string_view::npos) return result;
    result += '\n';
    text.remove_prefix(end + 1);
  }
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
  return std::to_string(count) + " " + std::string(noun) + (count == 1 ? "" : "s");
}

}  // namespace kvtool
