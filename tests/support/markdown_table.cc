#include "support/markdown_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>

namespace kvtool {
namespace {

std::string trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t\r") - first + 1));
}

// "| a | b |" as {"a", "b"}.
std::vector<std::string> split_row(std::string_view line) {
  std::vector<std::string> cells;
  line = line.substr(1);
  while (true) {
    const auto end = line.find('|');
    if (end == std::string_view::npos) return cells;
    cells.push_back(trimmed(line.substr(0, end)));
    line = line.substr(end + 1);
  }
}

bool is_heading(std::string_view line, std::string_view heading) {
  const auto text = line.find_first_not_of('#');
  return text != std::string_view::npos && trimmed(line.substr(text)) == heading;
}

std::vector<std::string> lines_below(const std::filesystem::path& page, std::string_view heading) {
  std::ifstream file(page);
  EXPECT_TRUE(file.is_open()) << page;
  std::vector<std::string> lines;
  bool below = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with('#')) below = is_heading(line, heading);
    if (below) lines.push_back(line);
  }
  return lines;
}

}  // namespace

std::vector<std::string> MarkdownTable::cells(std::string_view column) const {
  const auto place = std::find(columns.begin(), columns.end(), column);
  EXPECT_NE(place, columns.end()) << "no column " << column;
  std::vector<std::string> found;
  if (place == columns.end()) return found;
  for (const auto& row : rows) {
    found.push_back(row.at(static_cast<std::size_t>(place - columns.begin())));
  }
  return found;
}

std::optional<MarkdownTable> find_table(const std::filesystem::path& page, std::string_view heading,
                                        std::string_view first_column) {
  std::optional<MarkdownTable> table;
  bool in_table = false;
  for (const std::string& line : lines_below(page, heading)) {
    const bool is_row = line.starts_with('|');
    if (is_row && !in_table) {
      const std::vector<std::string> columns = split_row(line);
      if (!columns.empty() && columns.front().starts_with(first_column)) table = {columns, {}};
    } else if (is_row && table && !line.starts_with("| -")) {
      table->rows.push_back(split_row(line));
      EXPECT_EQ(table->rows.back().size(), table->columns.size()) << page << ": " << line;
      table->rows.back().resize(table->columns.size());
    } else if (!is_row && table) {
      return table;
    }
    in_table = is_row;
  }
  return table;
}

MarkdownTable read_table(const std::filesystem::path& page, std::string_view heading,
                         std::string_view first_column) {
  std::optional<MarkdownTable> table = find_table(page, heading, first_column);
  EXPECT_TRUE(table.has_value()) << page << ": no table \"" << first_column << "\" below \""
                                 << heading << "\"";
  return table.value_or(MarkdownTable{});
}

std::vector<std::string> code_spans(std::string_view cell) {
  std::vector<std::string> spans;
  while (true) {
    const auto start = cell.find('`');
    const auto end = cell.find('`', start + 1);
    if (start == std::string_view::npos || end == std::string_view::npos) return spans;
    spans.emplace_back(cell.substr(start + 1, end - start - 1));
    cell = cell.substr(end + 1);
  }
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::optional<double> parse_number(std::string_view text) {
  constexpr std::array kSuperscripts = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string plain = replaced(trimmed(text), "·10⁻", "e-");
  if (plain.starts_with("10⁻")) plain = replaced(plain, "10⁻", "1e-");
  for (std::size_t i = 0; i < kSuperscripts.size(); ++i) {
    plain = replaced(plain, kSuperscripts[i], std::to_string(i));
  }
  char* end = nullptr;
  const double number = std::strtod(plain.c_str(), &end);
  if (plain.empty() || *end != '\0') return std::nullopt;
  return number;
}

}  // namespace kvtool
