// What policies cost a model, on the console.
#include <algorithm>

#include "console/console_page.h"
#include "lab/lab_tables.h"
#include "lab/lab_words.h"
#include "wording.h"

namespace kvtool::report {
namespace {

constexpr std::size_t kLabNumber = 3;
constexpr std::size_t kLabName = 20;

void show_group(ConsolePage& page, const run::LabResult& result, LabGroup group) {
  const std::vector<LabColumn> columns = lab_columns(result);
  if (std::ranges::find(columns, group, &LabColumn::group) == columns.end()) return;
  std::string head(kLabNumber + kLabName, ' ');
  for (const LabColumn& column : columns) {
    if (column.group == group) head += fmt::format("{:>{}}", column.title, column.width);
  }
  page.line("");
  page.line("{}", head);
  for (std::size_t i = 0; i < result.rows.size(); ++i) {
    const run::LabRow& row = result.rows[i];
    std::string line = fmt::format("{:>2} {:<{}}", i + 1, lab_label(row, kLabName - 1), kLabName);
    for (const LabColumn& column : columns) {
      if (column.group == group) {
        line += fmt::format("{:>{}}", lab_cell(column, row), column.width);
      }
    }
    page.line("{}", line);
  }
}

// As wide as its words; the last column may be wider than the page.
void show_table(ConsolePage& page, const LabTable& table) {
  std::vector<std::size_t> widths(table.head.size(), 0);
  const auto fit = [&](const std::vector<std::string>& cells) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      widths[i] = std::max(widths[i], display_columns(cells[i]));
    }
  };
  fit(table.head);
  for (const std::vector<std::string>& cells : table.rows) fit(cells);
  const auto show = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const std::string blanks(widths[i] - display_columns(cells[i]), ' ');
      const bool on_left = i == 0 || i + 1 == cells.size();
      line += (i == 0 ? "" : "  ") + (on_left ? cells[i] + blanks : blanks + cells[i]);
    }
    page.line("{}", line.substr(0, line.find_last_not_of(' ') + 1));
  };
  page.line("");
  page.line("{}", page.painted(Paint::kBold, table.title));
  show(table.head);
  for (const std::vector<std::string>& cells : table.rows) show(cells);
  for (const std::string& line : table.lines) page.wrapped_line(line, 2);
}

}  // namespace

void show_lab(ConsolePage& page, const run::LabResult& result) {
  if (!page.options().quiet) {
    page.line("");
    page.wrapped_line(
        page.painted(Paint::kBold, fmt::format("K/V cache policies on {} ({})",
                                               one_line(result.model_id), one_line(result.dtype))),
        2);
    for (const std::string& line : lab_setting_lines(result)) page.wrapped_line(line, 2);
  }
  for (const LabGroup group :
       {LabGroup::kFlips, LabGroup::kLogits, LabGroup::kRows, LabGroup::kBytes, LabGroup::kTime,
        LabGroup::kPages, LabGroup::kWaiting}) {
    show_group(page, result, group);
  }
  page.line("");
  for (std::size_t i = 0; i < result.rows.size(); ++i) {
    page.wrapped_line(fmt::format("{:>2} {}", i + 1, lab_row_line(result.rows[i])), 5);
  }
  page.line("");
  for (const std::string& line : lab_claims(result)) page.wrapped_line(one_line(line), 2);
  for (const std::string& line : lab_check_lines(result)) page.wrapped_line(line, 2);
  for (const LabTable& table : lab_tables(result)) show_table(page, table);
}

}  // namespace kvtool::report
