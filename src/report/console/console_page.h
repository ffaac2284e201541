// The console report's page: one line after the other, 80 columns wide. The
// parts of the report are in console_*.cc, one file for each subject.
#pragma once

#include <fmt/format.h>

#include <ostream>
#include <string>
#include <utility>

#include "kvtool/base/text.h"
#include "report/flip_texts.h"
#include "report/reporter.h"

namespace kvtool::report {

inline constexpr std::size_t kConsoleColumns = 80;

enum class Paint { kBold, kGood, kBad };

class ConsolePage {
 public:
  ConsolePage(std::ostream& out, ConsoleOptions options) : out_(out), options_(options) {}

  [[nodiscard]] const ConsoleOptions& options() const { return options_; }

  // As it stands: for paths, and for what is known to be short.
  template <typename... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    out_ << fmt::format(format, std::forward<Args>(args)...) << '\n';
  }
  // Broken at spaces; further lines start with `hanging` spaces.
  void wrapped_line(const std::string& text, std::size_t hanging) {
    out_ << wrapped(text, kConsoleColumns, hanging) << '\n';
  }
  // A block of text behind four spaces.
  void block(const std::string& text) {
    out_ << indented(wrapped(text, kConsoleColumns - 4), 4) << '\n';
  }
  void flush() { out_.flush(); }

  [[nodiscard]] std::string painted(Paint paint, const std::string& text) const;

 private:
  std::ostream& out_;
  ConsoleOptions options_;
};

void show_input(ConsolePage& page, const run::InputResult& input);
// `command`: "diff" compares with a recording instead of this device.
void show_summary(ConsolePage& page, const run::Summary& summary, const FlipTexts& texts,
                  const std::string& command);
void show_verdict(ConsolePage& page, const run::Verdict& verdict, const FlipTexts& texts,
                  const std::string& command);
void show_gate(ConsolePage& page, const run::Verdict& verdict);
void show_info(ConsolePage& page, const run::InfoResult& info);
void show_packing(ConsolePage& page, const run::PackingResult& result);
void show_selftest(ConsolePage& page, const run::SelftestResult& result);
void show_calibration(ConsolePage& page, const run::CalibrationResult& result);
void show_bench(ConsolePage& page, const run::BenchResult& result);
void show_cache_bench(ConsolePage& page, const run::CacheBenchResult& result);
void show_lab(ConsolePage& page, const run::LabResult& result);
void show_experiments(ConsolePage& page, const run::ExperimentResult& result);
void show_verified(ConsolePage& page, const format::FileVerdict& verdict);
void show_verify_totals(ConsolePage& page, const run::VerifyTotals& totals);
void show_recovery(ConsolePage& page, const run::RecoveryResult& recovery);

}  // namespace kvtool::report
