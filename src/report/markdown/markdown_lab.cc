// What policies cost a model, in Markdown.
#include <fmt/format.h>

#include "kvtool/base/text.h"
#include "lab/lab_tables.h"
#include "lab/lab_words.h"
#include "markdown/markdown_page.h"
#include "wording.h"

namespace kvtool::report {
namespace {

std::string lab_table(const run::LabResult& result) {
  const std::vector<LabColumn> columns = lab_columns(result);
  std::vector<std::string> titles = {"row"};
  for (const LabColumn& column : columns) titles.push_back(">" + std::string(column.title));
  MarkdownTable table(titles);
  for (const run::LabRow& row : result.rows) {
    std::vector<std::string> cells = {markdown_code(row.name)};
    for (const LabColumn& column : columns) cells.push_back(lab_cell(column, row));
    table.row(cells);
  }
  return table.text();
}

// Whole, where markdown_text() would cut.
std::string lab_list(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) {
    text += "- " + escape_markdown(printable(line, Newlines::kEscape)) + "\n";
  }
  return text.empty() ? text : text + "\n";
}

std::string lab_part(const LabTable& table) {
  std::vector<std::string> titles = {table.head.front()};
  for (std::size_t i = 1; i < table.head.size(); ++i) titles.push_back(">" + table.head[i]);
  MarkdownTable markdown(titles);
  for (const std::vector<std::string>& cells : table.rows) markdown.row(cells);
  return "### " + table.title + "\n\n" + markdown.text() + lab_list(table.lines);
}

}  // namespace

void add_markdown_lab(MarkdownPage& page, const run::LabResult& result) {
  std::vector<std::string> specs;
  for (const run::LabRow& row : result.rows) specs.push_back(row.name + ": " + lab_row_line(row));
  page.add(fmt::format("## K/V cache policies on {} ({})\n\n", markdown_text(result.model_id),
                       markdown_text(result.dtype)) +
           lab_list(lab_setting_lines(result)) + lab_table(result));
  page.add("### What ran\n\n" + lab_list(specs));
  const std::string costs = lab_list(lab_claims(result)) + lab_list(lab_check_lines(result));
  if (!costs.empty()) page.add("### What it costs\n\n" + costs);
  for (const LabTable& table : lab_tables(result)) page.add(lab_part(table));
}

}  // namespace kvtool::report
