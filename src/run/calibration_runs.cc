#include "kvtool/run/calibration_runs.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/base/setting.h"
#include "kvtool/base/stop.h"

namespace kvtool::run {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxReportBytes = std::uint64_t{1} << 30U;
// Exit status of a kvtool that was asked to stop.
constexpr int kInterruptedChild = 130;
constexpr const char* kErrorPrefix = "kvtool: error: ";

// Every flip whose gap is known becomes a near-tie, so that the gaps can be
// measured; what passes is decided by the calibrated gate, not here.
constexpr const char* kMeasuringGate = R"({"name": "calibration", "near_tie_ulps": 1e9})";

// The last error that a child logged; all of its log when it logged none.
std::string message_of(const ProcessResult& done) {
  const auto at = done.error_output.rfind(kErrorPrefix);
  std::string message = at == std::string::npos
                            ? done.error_output
                            : done.error_output.substr(at + std::string(kErrorPrefix).size());
  while (!message.empty() && message.back() == '\n') message.pop_back();
  return message;
}

[[noreturn]] void throw_child_error(const std::string& what, const ProcessResult& done) {
  if (done.exit_status == kInterruptedChild) throw Interrupted();
  const int status = done.exit_status;
  const bool known = status >= static_cast<int>(ErrorCode::kUsage) &&
                     status <= static_cast<int>(ErrorCode::kEnvironment);
  throw Error(known ? static_cast<ErrorCode>(status) : ErrorCode::kEnvironment,
              what + " failed" + (known ? "" : " with exit status " + std::to_string(status)) +
                  ": " + message_of(done));
}

json read_report(const std::filesystem::path& path) {
  json document = json::parse(read_text_file(path, kMaxReportBytes), nullptr, false);
  if (!document.is_object()) throw std::logic_error("a replay wrote no JSON report");
  return document;
}

// An infinite figure is null in JSON.
double number_or_infinity(const json& value) {
  return value.is_number() ? value.get<double>() : std::numeric_limits<double>::infinity();
}

analysis::Figures figures_in(const json& document) {
  const json& verdicts = document.at("verdicts");
  if (verdicts.size() != 1) {
    throw_usage("calibrate takes recordings of one model and one device, and there are " +
                std::to_string(verdicts.size()) + " such groups: name one folder with " +
                setting("from"));
  }
  analysis::Figures figures;
  for (const auto& [name, value] : verdicts[0].at("figures").items()) {
    figures[name] = number_or_infinity(value);
  }
  return figures;
}

// Of what differs and has a gap that is no mere bound; what has none stays a hard flip.
double largest_gap_ulps(const json& document) {
  double largest = 0.0;
  for (const json& input : document.at("results")) {
    for (const json& mode : input.at("replay").at("modes")) {
      for (const json& mismatch : mode.at("mismatches")) {
        if (mismatch.at("class") == "hard_flip") continue;
        largest =
            std::max(largest, mismatch.at("gap").get<double>() / mismatch.at("ulp").get<double>());
      }
    }
  }
  return largest;
}

bool has_batches(const json& document) {
  const json& results = document.at("results");
  return std::any_of(results.begin(), results.end(),
                     [](const json& input) { return input.at("rows") > 1; });
}

std::string text(const json& object, const char* key) {
  const auto member = object.find(key);
  return member != object.end() && member->is_string() ? member->get<std::string>() : "";
}

class Calibrator {
 public:
  Calibrator(const CalibrationRequest& request, const RunKvtool& run,
             const std::function<void(const std::string&)>& progress)
      : request_(request), run_(run), progress_(progress) {}

  Calibration calibrate() {
    write_file_atomically(request_.scratch / "gate.json", kMeasuringGate);
    reference_ = request_.from.empty() ? record() : request_.from;
    const json first = replay(CalibrationVariant{});
    const CalibrationMachine machine = describe(first);
    const auto variants = plan_calibration(machine, request_.runs);
    for (std::size_t i = 1; i < variants.size(); ++i) static_cast<void>(replay(variants[i]));
    return finish(calibration_notes(machine));
  }

 private:
  std::string record() {
    progress_("recording the reference");
    std::vector<std::string> arguments = {"save", "--out",
                                          (request_.scratch / "reference").string()};
    arguments.insert(arguments.end(), request_.save_arguments.begin(),
                     request_.save_arguments.end());
    add_settings({}, arguments);
    const ProcessResult done = run_(arguments);
    if (done.exit_status != 0) throw_child_error("recording the reference", done);
    return (request_.scratch / "reference").string();
  }

  // A variant's settings over the user's own.
  void add_settings(const CalibrationVariant& variant, std::vector<std::string>& arguments) const {
    const std::string isa = variant.cpu_isa == "auto" ? request_.cpu_isa : variant.cpu_isa;
    const int threads = variant.threads == 0 ? request_.threads : variant.threads;
    for (const std::string& word :
         {std::string("--cpu-isa"), isa, std::string("--threads"), std::to_string(threads)}) {
      arguments.push_back(word);
    }
  }

  json replay(const CalibrationVariant& variant) {
    const std::string name = variant.name();
    progress_("replay " + std::to_string(outcomes_.size() + 1) + "/" +
              std::to_string(request_.runs) + ": " + name);
    const std::filesystem::path report = request_.scratch / "report.json";
    std::vector<std::string> arguments = {"replay",
                                          "--from",
                                          reference_,
                                          "--mode",
                                          "inject,forced",
                                          "--gate",
                                          (request_.scratch / "gate.json").string(),
                                          "--json",
                                          report.string(),
                                          "--quiet",
                                          "--batch",
                                          variant.single_inputs ? "1" : "recorded"};
    arguments.insert(arguments.end(), request_.replay_arguments.begin(),
                     request_.replay_arguments.end());
    add_settings(variant, arguments);

    const auto started = std::chrono::steady_clock::now();
    const ProcessResult done = run_(arguments);
    // 1: the measuring gate failed, which calibrate_gate() explains.
    if (done.exit_status != 0 && done.exit_status != 1) {
      throw_child_error("the replay \"" + name + "\"", done);
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
    json document = read_report(report);
    CalibrationOutcome outcome;
    outcome.run = {.name = name,
                   .cpu_isa = variant.cpu_isa == "auto" ? request_.cpu_isa : variant.cpu_isa,
                   .threads = variant.threads == 0 ? request_.threads : variant.threads,
                   .batch = variant.single_inputs ? "1" : "recorded",
                   .seconds = elapsed.count(),
                   .figures = figures_in(document)};
    outcome.largest_gap_ulps = largest_gap_ulps(document);
    outcomes_.push_back(std::move(outcome));
    return document;
  }

  CalibrationMachine describe(const json& document) {
    const json& device = document.at("device");
    const json& provenance = device.at("provenance");
    calibration_.device = {.label = text(device, "label"),
                           .type = text(device, "type"),
                           .name = text(device, "name"),
                           .torch_version = text(device, "torch_version"),
                           .provenance_json = provenance.dump()};
    const json& model = document.at("models").at(0);
    calibration_.model = {.id = text(model, "id"),
                          .slug = text(model, "slug"),
                          .path = text(model, "path"),
                          .architecture = text(model, "architecture"),
                          .dtype = text(model, "dtype"),
                          .num_layers = model.value("layers", std::uint64_t{0}),
                          .weights_sha256 = text(model, "weights_sha256")};
    CalibrationMachine machine;
    machine.cpu = calibration_.device.type == "cpu";
    const auto threads = provenance.find("threads");
    if (threads != provenance.end() && threads->is_number_integer()) {
      machine.threads = threads->get<int>();
    }
    machine.batched = has_batches(document);
    machine.isa_limits = weaker_instruction_sets(request_.cpuinfo, request_.cpu_isa);
    return machine;
  }

  json evidence() const {
    json runs = json::array();
    for (const CalibrationOutcome& outcome : outcomes_) {
      json figures = json::object();
      for (const auto& [name, value] : outcome.run.figures) {
        figures[name] = std::isfinite(value) ? json(value) : json(nullptr);
      }
      runs.push_back({{"name", outcome.run.name},
                      {"settings",
                       {{"cpu_isa", outcome.run.cpu_isa},
                        {"threads", outcome.run.threads},
                        {"batch", outcome.run.batch}}},
                      {"largest_gap_ulps", outcome.largest_gap_ulps},
                      {"figures", std::move(figures)}});
    }
    return {{"created_utc", request_.created_utc},
            {"kvtool_version", request_.kvtool_version},
            {"safety_factor", request_.safety},
            {"device",
             {{"label", calibration_.device.label},
              {"name", calibration_.device.name},
              {"torch_version", calibration_.device.torch_version},
              {"provenance", json::parse(calibration_.device.provenance_json)}}},
            {"model",
             {{"id", calibration_.model.id},
              {"dtype", calibration_.model.dtype},
              {"weights_sha256", calibration_.model.weights_sha256}}},
            {"runs", std::move(runs)}};
  }

  Calibration finish(std::vector<std::string> notes) {
    CalibratedGate gate = calibrate_gate(outcomes_, request_.safety);
    const ModelDescription& model = calibration_.model;
    const std::string device = calibration_.device.label;
    calibration_.gate_file =
        gate_document("calibrated-" + model.slug + "-" + device,
                      "Noise of " + model.id + " (" + model.dtype + ") between " +
                          std::to_string(outcomes_.size()) + " replays on " +
                          calibration_.device.name + ", times " + json(request_.safety).dump(),
                      gate, evidence());
    check_gate();

    CalibrationResult& result = calibration_.result;
    result.model_slug = model.slug;
    result.model_id = model.id;
    result.reference = request_.from.empty() ? "recorded by this command" : request_.from;
    result.safety_factor = request_.safety;
    for (CalibrationOutcome& outcome : outcomes_) result.runs.push_back(std::move(outcome.run));
    result.rules = std::move(gate.rules);
    result.notes = std::move(notes);
    result.notes.insert(result.notes.end(), gate.notes.begin(), gate.notes.end());
    return std::move(calibration_);
  }

  // A gate that fails what it was made of is a fault of this program.
  void check_gate() const {
    const analysis::Gate gate =
        analysis::GateSpec::parse(calibration_.gate_file, "the calibrated gate").resolve({});
    for (const CalibrationOutcome& outcome : outcomes_) {
      for (const analysis::RuleResult& rule : analysis::evaluate(gate, outcome.run.figures).rules) {
        if (rule.passed) continue;
        throw std::logic_error("the calibrated gate fails its own run \"" + outcome.run.name +
                               "\": " + analysis::describe(rule));
      }
    }
  }

  const CalibrationRequest& request_;
  const RunKvtool& run_;
  const std::function<void(const std::string&)>& progress_;
  std::string reference_;
  std::vector<CalibrationOutcome> outcomes_;
  Calibration calibration_;
};

}  // namespace

Calibration run_calibration(const CalibrationRequest& request, const RunKvtool& run,
                            const std::function<void(const std::string& what)>& progress) {
  return Calibrator(request, run, progress).calibrate();
}

}  // namespace kvtool::run
