#include "console/console_page.h"
#include "wording.h"

namespace kvtool::report {
namespace {

class ConsoleReporter : public Reporter {
 public:
  ConsoleReporter(std::ostream& out, ConsoleOptions options) : page_(out, options) {}

  void begin(const RunDescription& run) override { command_ = run.command; }

  void device(const run::DeviceDescription& device) override {
    if (page_.options().quiet) return;
    page_.wrapped_line(
        fmt::format("Device: {}{}", one_line(device.label),
                    device.name.empty() ? "" : fmt::format(" ({})", one_line(device.name))),
        8);
  }

  void model(const run::ModelDescription& model) override {
    if (page_.options().quiet) return;
    page_.wrapped_line(fmt::format("Model:  {} ({}, {} layers)", one_line(model.id),
                                   one_line(model.dtype), model.num_layers),
                       8);
  }

  void input(const run::InputResult& input) override {
    texts_.add(input);
    if (!page_.options().quiet) show_input(page_, input);
    page_.flush();
  }

  void info(const run::InfoResult& info) override { show_info(page_, info); }

  void exported(const run::DumpResult& dump) override {
    page_.line("Wrote {} ({}): K/V of {} after step {}", one_line(dump.target),
               megabytes(dump.bytes), counted(dump.positions, "position"), dump.step);
  }

  void packing(const run::PackingResult& result) override { show_packing(page_, result); }

  void selftest(const run::SelftestResult& result) override { show_selftest(page_, result); }

  void calibration(const run::CalibrationResult& result) override {
    show_calibration(page_, result);
  }

  void bench(const run::BenchResult& result) override { show_bench(page_, result); }
  void cache_bench(const run::CacheBenchResult& result) override {
    show_cache_bench(page_, result);
  }
  void lab(const run::LabResult& result) override { show_lab(page_, result); }
  void experiments(const run::ExperimentResult& result) override {
    show_experiments(page_, result);
  }
  void verified(const format::FileVerdict& verdict) override {
    show_verified(page_, verdict);
    page_.flush();
  }
  void verified_all(const run::VerifyTotals& totals) override { show_verify_totals(page_, totals); }
  void recovered(const run::RecoveryResult& recovery) override { show_recovery(page_, recovery); }

  void finish(const run::Summary& summary) override {
    if (summary.inputs > 0) show_summary(page_, summary, texts_, command_);
    page_.flush();
  }

  void fail(int /*exit_status*/, const std::string& /*message*/) override { page_.flush(); }

 private:
  ConsolePage page_;
  FlipTexts texts_;
  std::string command_;
};

}  // namespace

std::string ConsolePage::painted(Paint paint, const std::string& text) const {
  if (!options_.color) return text;
  constexpr const char* kReset = "\x1b[0m";
  switch (paint) {
    case Paint::kBold: return "\x1b[1m" + text + kReset;
    case Paint::kGood: return "\x1b[32m" + text + kReset;
    case Paint::kBad: return "\x1b[31m" + text + kReset;
  }
  return text;
}

std::unique_ptr<Reporter> make_console_reporter(std::ostream& out, ConsoleOptions options) {
  return std::make_unique<ConsoleReporter>(out, options);
}

}  // namespace kvtool::report
