#include <utility>

#include "json/json_values.h"
#include "kvtool/run/experiment.h"
#include "report/reporter.h"

namespace kvtool::report {
namespace {

Json object_or_null(const std::string& document) {
  Json parsed = Json::parse(document, nullptr, false);
  return parsed.is_object() ? parsed : Json(nullptr);
}

class JsonReporter : public Reporter {
 public:
  explicit JsonReporter(std::function<void(const std::string&)> write) : write_(std::move(write)) {
    document_["schema_version"] = kSchemaVersion;
  }

  void begin(const RunDescription& run) override {
    document_["command"] = run.command;
    document_["kvtool_version"] = run.kvtool_version;
    document_["created_utc"] = run.created_utc;
  }

  void device(const run::DeviceDescription& device) override {
    document_["device"] = {{"label", json_text(device.label)},
                           {"type", json_text(device.type)},
                           {"name", json_text(device.name)},
                           {"torch_version", json_known(device.torch_version)},
                           {"provenance", object_or_null(device.provenance_json)}};
  }

  void model(const run::ModelDescription& model) override {
    document_["models"].push_back({{"id", json_text(model.id)},
                                   {"slug", json_text(model.slug)},
                                   {"path", json_text(model.path)},
                                   {"architecture", json_known(model.architecture)},
                                   {"dtype", json_known(model.dtype)},
                                   {"layers", model.num_layers},
                                   {"weights_sha256", json_known(model.weights_sha256)},
                                   {"config_sha256", json_known(model.config_sha256)},
                                   {"graph_sha256", json_known(model.graph_sha256)}});
  }

  void input(const run::InputResult& input) override {
    texts_.add(input);
    document_["results"].push_back(json_input(input));
  }

  void info(const run::InfoResult& info) override {
    Json recordings = Json::array();
    std::uint64_t bytes = 0;
    std::uint64_t unreadable = 0;
    for (const run::RecordingInfo& recording : info.recordings) {
      recordings.push_back(json_recording(recording));
      bytes += recording.bytes;
      unreadable += recording.error.empty() ? 0 : 1;
    }
    document_["totals"] = {
        {"recordings", recordings.size()}, {"bytes", bytes}, {"unreadable", unreadable}};
    document_["recordings"] = std::move(recordings);
  }

  void exported(const run::DumpResult& dump) override {
    document_["dump"] = {{"recording", json_text(dump.recording)},
                         {"step", dump.step},
                         {"positions", dump.positions},
                         {"target", json_text(dump.target)},
                         {"bytes", dump.bytes}};
  }

  void packing(const run::PackingResult& result) override {
    document_["packing"] = json_packing(result);
  }

  void selftest(const run::SelftestResult& result) override {
    document_["selftests"].push_back(json_selftest(result));
  }

  void calibration(const run::CalibrationResult& result) override {
    document_["calibrations"].push_back(json_calibration(result));
  }

  void bench(const run::BenchResult& result) override { document_["bench"] = json_bench(result); }
  void cache_bench(const run::CacheBenchResult& result) override {
    document_["cache_benches"].push_back(json_cache_bench(result));
  }
  void lab(const run::LabResult& result) override { document_["labs"].push_back(json_lab(result)); }
  void experiments(const run::ExperimentResult& result) override {
    document_["experiments"] = run::experiment_summary(result);
    document_["experiments"]["folder"] = json_text(result.folder.string());
  }
  void verified(const format::FileVerdict& verdict) override {
    document_["files"].push_back(json_verified(verdict));
  }

  void verified_all(const run::VerifyTotals& totals) override {
    document_["totals"] = json_verify_totals(totals);
  }

  void recovered(const run::RecoveryResult& recovery) override {
    document_["recovery"] = json_recovery(recovery);
  }

  void finish(const run::Summary& summary) override {
    for (const run::Verdict& verdict : summary.verdicts) {
      document_["verdicts"].push_back(json_verdict(verdict, texts_));
    }
    if (summary.inputs > 0) document_["summary"] = json_summary(summary);
    publish();
  }

  void fail(int exit_status, const std::string& message) override {
    document_["error"] = {{"exit_status", exit_status}, {"message", json_text(message)}};
    publish();
  }

 private:
  void publish() { write_(json_document(document_)); }

  std::function<void(const std::string&)> write_;
  Json document_;
  FlipTexts texts_;
};

}  // namespace

std::unique_ptr<Reporter> make_json_reporter(
    std::function<void(const std::string& document)> write) {
  return std::make_unique<JsonReporter>(std::move(write));
}

}  // namespace kvtool::report
