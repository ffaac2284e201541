// Tables of the pages in docs/, for tests that hold them to the tables of the code.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvtool {

struct MarkdownTable {
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;  // each as long as `columns`

  // The cells of a column, in order. A test failure, and none, where there is no such column.
  [[nodiscard]] std::vector<std::string> cells(std::string_view column) const;
};

// The first table below the heading ("Figure names") and before the next one whose first
// column's name begins with `first_column`.
[[nodiscard]] std::optional<MarkdownTable> find_table(const std::filesystem::path& page,
                                                      std::string_view heading,
                                                      std::string_view first_column);
// A test failure where there is none.
[[nodiscard]] MarkdownTable read_table(const std::filesystem::path& page, std::string_view heading,
                                       std::string_view first_column);

// What stands between backticks, in order.
[[nodiscard]] std::vector<std::string> code_spans(std::string_view cell);

// "0.02", "2·10⁻⁵", "10⁻⁸"; nothing when the text is anything else.
[[nodiscard]] std::optional<double> parse_number(std::string_view text);

// `text` with every `from` replaced.
[[nodiscard]] std::string replaced(std::string text, std::string_view from, std::string_view to);

}  // namespace kvtool
