// Text that may safely go to a terminal, a Markdown page or an XML file. Tokens
// are bytes: one token need not be whole UTF-8, and a model may emit any control
// character and any markup.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace kvtool {

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

// `bytes` as one line of GitHub-flavoured Markdown that shows them literally,
// also in a table cell or a <code> element (never in an attribute): printable(), with every
// character that could start markup as a numeric character reference, and a zero-width space in
// what GitHub would link after rendering (@user, #1, URLs).
[[nodiscard]] std::string escape_markdown(std::string_view bytes);

// printable() without the characters that XML 1.0 forbids (section 2.2), as text
// or attribute value; escaping markup is the writer's task.
[[nodiscard]] std::string xml_text(std::string_view bytes);

// Columns that `text` takes on a terminal: two for East Asian wide characters
// and emoji, none for combining characters and colour codes (ESC [ ... m).
[[nodiscard]] std::size_t display_columns(std::string_view text);

// Breaks lines of valid UTF-8 that are longer than `columns`, at a space where
// there is one; lines that a break begins start with `hanging` spaces.
[[nodiscard]] std::string wrapped(std::string_view text, std::size_t columns,
                                  std::size_t hanging = 0);

// Every line of `text` behind `spaces` spaces.
[[nodiscard]] std::string indented(std::string_view text, std::size_t spaces);

// "1 input", "3 inputs", "2 near-ties".
[[nodiscard]] std::string counted(std::size_t count, std::string_view noun);

}  // namespace kvtool
