#include <utility>

#include "report/reporter.h"

namespace kvtool::report {
namespace {

class ReporterList : public Reporter {
 public:
  explicit ReporterList(std::vector<std::unique_ptr<Reporter>> reporters)
      : reporters_(std::move(reporters)) {}

  void begin(const RunDescription& run) override {
    for (const auto& reporter : reporters_) reporter->begin(run);
  }
  void log(run::LogLevel level, const std::string& message) override {
    for (const auto& reporter : reporters_) reporter->log(level, message);
  }
  void progress(const std::string& what) override {
    for (const auto& reporter : reporters_) reporter->progress(what);
  }
  void progress_of(const std::string& what, std::uint64_t done, std::uint64_t total) override {
    for (const auto& reporter : reporters_) reporter->progress_of(what, done, total);
  }
  void progress_done() override {
    for (const auto& reporter : reporters_) reporter->progress_done();
  }
  void device(const run::DeviceDescription& device) override {
    for (const auto& reporter : reporters_) reporter->device(device);
  }
  void model(const run::ModelDescription& model) override {
    for (const auto& reporter : reporters_) reporter->model(model);
  }
  void input(const run::InputResult& input) override {
    for (const auto& reporter : reporters_) reporter->input(input);
  }
  void info(const run::InfoResult& info) override {
    for (const auto& reporter : reporters_) reporter->info(info);
  }
  void exported(const run::DumpResult& dump) override {
    for (const auto& reporter : reporters_) reporter->exported(dump);
  }
  void packing(const run::PackingResult& result) override {
    for (const auto& reporter : reporters_) reporter->packing(result);
  }
  void selftest(const run::SelftestResult& result) override {
    for (const auto& reporter : reporters_) reporter->selftest(result);
  }
  void calibration(const run::CalibrationResult& result) override {
    for (const auto& reporter : reporters_) reporter->calibration(result);
  }
  void bench(const run::BenchResult& result) override {
    for (const auto& reporter : reporters_) reporter->bench(result);
  }
  void cache_bench(const run::CacheBenchResult& result) override {
    for (const auto& reporter : reporters_) reporter->cache_bench(result);
  }
  void lab(const run::LabResult& result) override {
    for (const auto& reporter : reporters_) reporter->lab(result);
  }
  void experiments(const run::ExperimentResult& result) override {
    for (const auto& reporter : reporters_) reporter->experiments(result);
  }
  void verified(const format::FileVerdict& verdict) override {
    for (const auto& reporter : reporters_) reporter->verified(verdict);
  }
  void verified_all(const run::VerifyTotals& totals) override {
    for (const auto& reporter : reporters_) reporter->verified_all(totals);
  }
  void recovered(const run::RecoveryResult& recovery) override {
    for (const auto& reporter : reporters_) reporter->recovered(recovery);
  }
  void finish(const run::Summary& summary) override {
    for (const auto& reporter : reporters_) reporter->finish(summary);
  }
  void fail(int exit_status, const std::string& message) override {
    for (const auto& reporter : reporters_) reporter->fail(exit_status, message);
  }

 private:
  std::vector<std::unique_ptr<Reporter>> reporters_;
};

}  // namespace

std::unique_ptr<Reporter> make_reporter_list(std::vector<std::unique_ptr<Reporter>> reporters) {
  return std::make_unique<ReporterList>(std::move(reporters));
}

}  // namespace kvtool::report
