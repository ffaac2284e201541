// The Markdown report's page: blocks of text within the size that a CI job
// summary may have. The parts are in markdown_*.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kvtool/run/result.h"
#include "report/flip_texts.h"

namespace kvtool::run {
struct CacheBenchResult;
struct ExperimentResult;
struct LabResult;
}  // namespace kvtool::run

namespace kvtool::report {

// A job summary may have 1 MiB; the rest is for the notes about what was cut.
inline constexpr std::size_t kMarkdownBytes = 1'000'000;

class MarkdownPage {
 public:
  // A block is whole or left out, and left-out ones are counted.
  void add(std::string block);
  [[nodiscard]] bool full() const { return left_out_ > 0; }
  [[nodiscard]] std::size_t left_out() const { return left_out_; }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::size_t left_out_ = 0;
};

class MarkdownTable {
 public:
  // Columns whose name starts with '>' are aligned to the right.
  explicit MarkdownTable(const std::vector<std::string>& columns);
  // Cells are Markdown already. Rows beyond the limit are only counted.
  void row(const std::vector<std::string>& cells);
  [[nodiscard]] bool empty() const { return rows_ == 0; }
  [[nodiscard]] std::string text() const;

  static constexpr std::size_t kRows = 200;

 private:
  std::string text_;
  std::size_t rows_ = 0;
};

// Escaped, at most 200 characters.
[[nodiscard]] std::string markdown_text(std::string_view bytes);
// The same in a <code> element.
[[nodiscard]] std::string markdown_code(std::string_view bytes);

void add_markdown_verdict(MarkdownPage& page, const run::Verdict& verdict, const FlipTexts& texts);
// What went wrong with an input, folded.
[[nodiscard]] std::string markdown_failed_input(const run::InputResult& input);
void add_markdown_selftest(MarkdownPage& page, const run::SelftestResult& result);
void add_markdown_cache_bench(MarkdownPage& page, const run::CacheBenchResult& result);
void add_markdown_lab(MarkdownPage& page, const run::LabResult& result);
void add_markdown_experiments(MarkdownPage& page, const run::ExperimentResult& result);
void add_markdown_calibration(MarkdownPage& page, const run::CalibrationResult& result);

}  // namespace kvtool::report
