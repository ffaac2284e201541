#include "kvtool/run/calibration_runs.h"

#include <chrono>
#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/base/setting.h"
#include "kvtool/base/stop.h"
#include "kvtool/base/temporary_folder.h"
#include "kvtool/run/paths.h"
#include "run/reference/reference_sets.h"
#include "worker_process.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string contents_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

json runs_of_evidence(const std::vector<CalibrationOutcome>& outcomes) {
  json runs = json::array();
  for (const CalibrationOutcome& outcome : outcomes) {
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
                    {"largest_gap_noise", outcome.largest_gap_noise},
                    {"figures", std::move(figures)}});
  }
  return runs;
}

class Calibrator {
 public:
  Calibrator(const CalibrationRequest& request, const Services& services, Observer& observer)
      : request_(request),
        services_(services),
        observer_(observer),
        created_utc_(utc_iso8601(services.now())) {}

  void run() {
    check_target();
    check_inputs();
    std::optional<TemporaryFolder> recorded;
    if (request_.run.from.empty()) record(recorded.emplace("calibrate").path());
    prepare_replays(recorded);
    const WorkerMeasurement first = replay(CalibrationVariant{});
    const CalibrationMachine machine = describe(first);
    const auto variants = plan_calibration(machine, request_.runs);
    for (std::size_t i = 1; i < variants.size(); ++i) static_cast<void>(replay(variants[i]));
    finish(first, calibration_notes(machine));
  }

 private:
  // Before minutes of replays, not after them.
  void check_target() const {
    const fs::path& target = request_.target;
    const std::string where = setting("out") + " " + target.string();
    const fs::path folder = target.has_parent_path() ? target.parent_path() : ".";
    if (!fs::is_directory(folder)) {
      throw_usage(where + ": the folder " + folder.string() + " does not exist");
    }
    if (fs::is_directory(target)) throw_usage(where + " is a folder: name a file");
    if (find_output_target(target).can_be_replaced && fs::exists(target) && !request_.run.force) {
      throw_usage(target.string() + " exists already: choose another " + setting("out") + ", or " +
                  setting("force") + " to replace it");
    }
  }

  void check_inputs() const {
    const Request& run = request_.run;
    if (run.models.size() > 1) {
      throw_usage("calibrate takes one model, and there are " + std::to_string(run.models.size()) +
                  ": name it with " + setting("model"));
    }
    require_one_source(run);
  }

  void record(const fs::path& folder) const {
    tell("recording the reference");
    WorkerTask task{.action = WorkerAction::kRecord, .request = request_.run};
    task.request.base_dir = folder.string();
    static_cast<void>(ask_worker(services_, task, "recording the reference"));
  }

  void prepare_replays(const std::optional<TemporaryFolder>& recorded) {
    replayed_ = recorded ? replay_of_recorded(request_.run, recorded->path()) : request_.run;
    // As in a replay: prompts of a configuration say how many inputs there are.
    if (!recorded && !replayed_.request_number && !replayed_.prompts.empty()) {
      replayed_.request_number = replayed_.prompts.size();
    }
    replayed_.prompts.clear();
    replayed_.replay_modes = {format::ReplayMode::kInject, format::ReplayMode::kForced};
  }

  WorkerMeasurement replay(const CalibrationVariant& variant) {
    CalibrationOutcome outcome;
    outcome.run.name = variant.name();
    tell("replay " + std::to_string(outcomes_.size() + 1) + "/" + std::to_string(request_.runs) +
         ": " + outcome.run.name);
    // A variant's settings over the user's own.
    WorkerTask task{.action = WorkerAction::kMeasure, .request = replayed_};
    if (variant.cpu_isa != "auto") task.request.cpu_isa = variant.cpu_isa;
    if (variant.threads != 0) task.request.threads = variant.threads;
    if (variant.single_inputs) task.request.replay_shape = ReplayShape::kSingle;
    outcome.run.cpu_isa = task.request.cpu_isa;
    outcome.run.threads = task.request.threads;
    outcome.run.batch = variant.single_inputs ? "1" : "recorded";

    const auto started = std::chrono::steady_clock::now();
    WorkerAnswer answer = ask_worker(services_, task, "the replay \"" + outcome.run.name + "\"");
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
    if (!answer.measurement) throw_internal("a worker measured nothing");
    check_one_group(*answer.measurement);
    outcome.run.seconds = elapsed.count();
    outcome.run.figures = answer.measurement->figures;
    outcome.largest_gap_ulps = answer.measurement->largest_gap_ulps;
    outcome.largest_gap_noise = answer.measurement->largest_gap_noise;
    outcomes_.push_back(std::move(outcome));
    return *std::move(answer.measurement);
  }

  static void check_one_group(const WorkerMeasurement& measured) {
    if (measured.groups == 1) return;
    throw_usage(
        "calibrate takes recordings of one model, one device and one cache, and there are " +
        std::to_string(measured.groups) + " such groups: name one folder with " + setting("from"));
  }

  [[nodiscard]] CalibrationMachine describe(const WorkerMeasurement& measured) const {
    CalibrationMachine machine;
    machine.cpu = measured.device.type == "cpu";
    const json provenance = json::parse(measured.device.provenance_json);
    const auto threads = provenance.find("threads");
    if (threads != provenance.end() && threads->is_number_integer()) {
      machine.threads = threads->get<int>();
    }
    machine.batched = measured.most_rows > 1;
    machine.isa_limits =
        weaker_instruction_sets(contents_of(request_.cpuinfo), request_.run.cpu_isa);
    return machine;
  }

  [[nodiscard]] json evidence(const WorkerMeasurement& first) const {
    return {{"created_utc", created_utc_},
            {"kvtool_version", KVTOOL_VERSION},
            {"safety_factor", request_.safety},
            {"cache", first.cache},
            {"device",
             {{"label", first.device.label},
              {"name", first.device.name},
              {"torch_version", first.device.torch_version},
              {"provenance", json::parse(first.device.provenance_json)}}},
            {"model",
             {{"id", first.model.id},
              {"dtype", first.model.dtype},
              {"weights_sha256", first.model.weights_sha256},
              {"config_sha256", first.model.config_sha256}}},
            {"runs", runs_of_evidence(outcomes_)}};
  }

  void finish(const WorkerMeasurement& first, std::vector<std::string> notes) {
    CalibratedGate gate = calibrate_gate(outcomes_, request_.safety);
    write_gate(first, gate);
    CalibrationResult result;
    result.model_slug = first.model.slug;
    result.model_id = first.model.id;
    result.reference = request_.run.from.empty() ? "recorded by this command" : request_.run.from;
    result.cache = first.cache;
    result.target = request_.target.string();
    result.safety_factor = request_.safety;
    result.measures_noise = gate.measures_noise;
    for (CalibrationOutcome& outcome : outcomes_) result.runs.push_back(std::move(outcome.run));
    result.rules = std::move(gate.rules);
    result.notes = std::move(notes);
    result.notes.insert(result.notes.end(), gate.notes.begin(), gate.notes.end());
    observer_.device(first.device);
    observer_.model(first.model);
    observer_.calibration(result);
    observer_.finish({});
  }

  void write_gate(const WorkerMeasurement& first, const CalibratedGate& gate) const {
    const ModelDescription& model = first.model;
    const json document =
        gate_document("calibrated-" + model.slug + "-" + first.device.label,
                      "Noise of " + model.id + " (" + model.dtype + ") between " +
                          std::to_string(outcomes_.size()) + " replays on " + first.device.name +
                          ", times " + json(request_.safety).dump(),
                      gate, evidence(first));
    check_gate(document, gate.measures_noise);
    write_output_file(request_.target, document.dump(2) + "\n");
  }

  void check_gate(const json& document, bool measures_noise) const {
    analysis::GateContext context;
    context.measures_noise = measures_noise;
    const analysis::Gate gate =
        analysis::GateSpec::parse(document, "the calibrated gate").resolve(context);
    for (const CalibrationOutcome& outcome : outcomes_) {
      for (const analysis::RuleResult& rule : analysis::evaluate(gate, outcome.run.figures).rules) {
        if (rule.passed) continue;
        throw_failed(rule, outcome.run.name, document.at("rules").contains(rule.rule.figure));
      }
    }
  }

  // A gate that fails what it was made of is a fault of this program; a rule that every gate
  // holds was not made of it.
  [[noreturn]] static void throw_failed(const analysis::RuleResult& rule, const std::string& run,
                                        bool calibrated) {
    if (calibrated) {
      throw_internal("the calibrated gate fails its own run \"" + run +
                     "\": " + analysis::describe(rule));
    }
    throw_environment("cannot calibrate: the replay \"" + run +
                      "\" breaks a rule that every gate holds, so that it shows more than "
                      "rounding noise: " +
                      analysis::describe(rule) + ". Replay with " + setting("mode") +
                      " inject,forced to see where");
  }

  void tell(const std::string& what) const {
    observer_.log(LogLevel::kDebug, what);
    observer_.progress(what);
  }

  const CalibrationRequest& request_;
  const Services& services_;
  Observer& observer_;
  std::string created_utc_;
  Request replayed_;  // what every replay starts from
  std::vector<CalibrationOutcome> outcomes_;
};

}  // namespace

void run_calibration(const CalibrationRequest& request, const Services& services,
                     Observer& observer) {
  Calibrator(request, services, observer).run();
}

}  // namespace kvtool::run
