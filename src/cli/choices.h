// What options, help texts and messages show of a table of choices: rows with a `name` and
// a `summary`.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

namespace kvtool::cli {

template <typename Table>
std::vector<std::string> names_of(const Table& table) {
  std::vector<std::string> names;
  for (const auto& row : table) names.emplace_back(row.name);
  return names;
}

// "inject (...), forced (...)"
template <typename Table>
std::string names_and_summaries(const Table& table) {
  std::string text;
  for (const auto& row : table) {
    text +=
        (text.empty() ? "" : ", ") + std::string(row.name) + " (" + std::string(row.summary) + ")";
  }
  return text;
}

// A line for each: "  name     summary\n"
template <typename Table>
std::string lines_of(const Table& table) {
  std::size_t width = 0;
  for (const auto& row : table) width = std::max(width, row.name.size());
  std::string text;
  for (const auto& row : table) {
    text += "  " + std::string(row.name) + std::string(width - row.name.size() + 2, ' ') +
            std::string(row.summary) + "\n";
  }
  return text;
}

// "a", "b" or "c", each in quotes.
template <typename Table>
std::string one_of(const Table& table) {
  std::string text;
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (i > 0) text += i + 1 < table.size() ? ", " : " or ";
    text += '"' + std::string(table[i].name) + '"';
  }
  return text;
}

}  // namespace kvtool::cli
