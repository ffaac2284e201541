// Text that may safely go to a terminal. Tokens are bytes: one token need not
// be whole UTF-8, and a model may emit any control character.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace kvtool::report {

enum class Newlines { kKeep, kEscape };

// `bytes` as printable UTF-8: control characters (C0, DEL, C1 and the ones that
// change the direction of text) are escaped, invalid bytes shown as \xNN.
[[nodiscard]] std::string printable(std::string_view bytes, Newlines newlines = Newlines::kKeep);

// `bytes` as valid UTF-8 with U+FFFD in place of invalid bytes, for JSON.
[[nodiscard]] std::string valid_utf8(std::string_view bytes);

// "a b" -> "\"a b\"", newlines escaped.
[[nodiscard]] std::string quote(std::string_view bytes);

// At most `max_characters` code points of valid UTF-8, the end replaced by "…".
[[nodiscard]] std::string shortened(std::string_view text, std::size_t max_characters);

// Every line of `text` behind `spaces` spaces.
[[nodiscard]] std::string indented(std::string_view text, std::size_t spaces);

// "1 input", "3 inputs".
[[nodiscard]] std::string counted(std::size_t count, std::string_view noun);

}  // namespace kvtool::report
