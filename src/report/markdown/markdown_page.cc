#include "markdown/markdown_page.h"

#include <fmt/format.h>

#include "kvtool/base/text.h"

namespace kvtool::report {
namespace {

constexpr std::size_t kTextCharacters = 200;

std::string joined(const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& cell : cells) line += " " + cell + " |";
  return line + "\n";
}

}  // namespace

void MarkdownPage::add(std::string block) {
  if (text_.size() + block.size() > kMarkdownBytes) {
    ++left_out_;
    return;
  }
  text_ += block;
}

MarkdownTable::MarkdownTable(const std::vector<std::string>& columns) {
  std::vector<std::string> names;
  std::vector<std::string> rules;
  for (const std::string& column : columns) {
    const bool right = column.starts_with('>');
    names.push_back(right ? column.substr(1) : column);
    rules.emplace_back(right ? "---:" : "---");
  }
  text_ = joined(names) + joined(rules);
}

void MarkdownTable::row(const std::vector<std::string>& cells) {
  if (++rows_ <= kRows) text_ += joined(cells);
}

std::string MarkdownTable::text() const {
  if (rows_ <= kRows) return text_ + "\n";
  return text_ + fmt::format("\n… and {} more.\n\n", rows_ - kRows);
}

std::string markdown_text(std::string_view bytes) {
  return escape_markdown(shortened(printable(bytes, Newlines::kEscape), kTextCharacters));
}

std::string markdown_code(std::string_view bytes) {
  return "<code>" + markdown_text(bytes) + "</code>";
}

}  // namespace kvtool::report
