// Everybody who is told of a run at a terminal: the reporters its results, the log and the
// progress line the rest. Settings that messages and findings name become options.
#pragma once

#include <functional>
#include <memory>

#include "progress.h"
#include "report/reporter.h"
#include "terminal.h"

namespace kvtool::cli {

// A command worth trying after the run; may be empty.
using NextCommand = std::function<std::string(const run::Summary& summary)>;

class Audience final : public run::Observer {
 public:
  // `next_command` may be null.
  Audience(const Terminal& terminal, bool quiet, report::Reporter& reporter,
           NextCommand next_command);

  void log(run::LogLevel level, const std::string& message) override;
  void progress(const std::string& what) override;
  void progress_of(const std::string& what, std::uint64_t done, std::uint64_t total) override;
  void progress_done() override;

  void device(const run::DeviceDescription& device) override { reporter_.device(device); }
  void model(const run::ModelDescription& model) override { reporter_.model(model); }
  void input(const run::InputResult& input) override { reporter_.input(input); }
  void info(const run::InfoResult& info) override { reporter_.info(info); }
  void exported(const run::DumpResult& dump) override { reporter_.exported(dump); }
  void packing(const run::PackingResult& result) override { reporter_.packing(result); }
  void selftest(const run::SelftestResult& result) override { reporter_.selftest(result); }
  void calibration(const run::CalibrationResult& result) override;
  void bench(const run::BenchResult& result) override { reporter_.bench(result); }
  void cache_bench(const run::CacheBenchResult& result) override { reporter_.cache_bench(result); }
  void lab(const run::LabResult& result) override { reporter_.lab(result); }
  void experiments(const run::ExperimentResult& result) override { reporter_.experiments(result); }
  void verified(const format::FileVerdict& verdict) override { reporter_.verified(verdict); }
  void verified_all(const run::VerifyTotals& totals) override { reporter_.verified_all(totals); }
  void recovered(const run::RecoveryResult& recovery) override { reporter_.recovered(recovery); }
  void finish(const run::Summary& summary) override;

 private:
  report::Reporter& reporter_;
  NextCommand next_command_;
  ProgressLine line_;
};

}  // namespace kvtool::cli
