
#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "command.h"
#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/base/subprocess.h"
#include "kvtool/base/temporary_folder.h"
#include "kvtool/run/calibration_runs.h"
#include "kvtool/run/paths.h"
#include "options.h"
#include "reporting.h"
#include "settings.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kDefaultRuns = 8;
constexpr double kDefaultSafety = 2.0;

std::string contents_of(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

ProcessResult run_this_program(const std::vector<std::string>& arguments, const StopToken& stop) {
  std::vector<std::string> argv = {fs::read_symlink("/proc/self/exe").string()};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return run_process(argv, "", stop);
}

class Words {
 public:
  Words& add(const char* option, const std::optional<std::string>& value) {
    if (value) words_.insert(words_.end(), {option, *value});
    return *this;
  }
  Words& add(const char* option, const std::optional<std::uint64_t>& value) {
    return value ? add(option, std::optional(std::to_string(*value))) : *this;
  }
  Words& add_each(const char* option, const std::vector<std::string>& values) {
    for (const std::string& value : values) words_.insert(words_.end(), {option, value});
    return *this;
  }
  Words& add_list(const char* option, const std::vector<std::uint64_t>& values) {
    std::string list;
    for (const std::uint64_t value : values) {
      list += (list.empty() ? "" : ",") + std::to_string(value);
    }
    return list.empty() ? *this : add(option, std::optional(list));
  }
  Words& add_flag(const char* option, bool given) {
    if (given) words_.emplace_back(option);
    return *this;
  }
  [[nodiscard]] const std::vector<std::string>& get() const { return words_; }

 private:
  std::vector<std::string> words_;
};

class CalibrateCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "calibrate"; }
  [[nodiscard]] const char* summary() const override {
    return "Measure this machine's rounding noise and write a gate from it";
  }

  void declare(CLI::App& app) override {
    const char* group = "Calibration";
    app.add_option("--out", target_, "The gate file to write")
        ->option_text("GATE.json")
        ->required()
        ->group(group);
    app.add_option("--from", options_.from,
                   "Recordings to replay: a device label below --ref-dir, or a path. Default: "
                   "record the prompts now, in a temporary folder")
        ->option_text("LABEL|PATH")
        ->group(group);
    app.add_option("--ref-dir", options_.ref_dir, "Folder of references (default ref_cache)")
        ->option_text("DIR")
        ->group(group);
    app.add_option("--runs", runs_, "Replays, each with other settings (default 8, at least 5)")
        ->option_text("N")
        ->check(CLI::Range(run::kMinCalibrationRuns, 1000))
        ->group(group);
    app.add_option("--safety", safety_,
                   "Allow this many times the noise that was measured (default 2)")
        ->option_text("FACTOR")
        ->check(CLI::Range(1.0, 1000.0))
        ->group(group);
    app.add_flag("--force", options_.force, "Replace a gate file that exists already")
        ->group(group);
    add_common_options(app, options_);
    app.footer(R"(The reference is replayed in modes inject and forced as it was recorded, with
fewer threads, one input at a time and, on a CPU, with weaker instruction sets,
each in a process of its own. The worst figure of all replays is the noise; the
gate allows --safety times as much. It holds the measurements as evidence.

Use as many tokens as the gate will judge: the worst of more steps is worse.

Examples:
    kvtool calibrate --model models/MODEL.pt --prompts configs/prompts.jsonl \
        --batch-size 4 --out gates/MODEL.json
    kvtool calibrate --from CPU --out gates/MODEL.json
    kvtool replay --from CPU --gate gates/MODEL.json)");
  }

  int execute(Terminal& terminal) override {
    return with_observer(terminal, reporting_of(name(), options_), [&](run::Observer& observer) {
      check_arguments();
      run::Calibration calibration = calibrate(terminal, observer);
      write_file_atomically(target_, calibration.gate_file.dump(2) + "\n");
      calibration.result.target = target_;
      observer.device(calibration.device);
      observer.model(calibration.model);
      observer.calibration(calibration.result);
      observer.finish({});
      return 0;
    });
  }

 private:
  // Before minutes of replays, not after them.
  void check_arguments() const {
    const fs::path target(target_);
    const fs::path folder = target.has_parent_path() ? target.parent_path() : ".";
    if (!fs::is_directory(folder)) {
      throw_usage("--out " + target_ + ": the folder " + folder.string() + " does not exist");
    }
    if (fs::is_directory(target)) throw_usage("--out " + target_ + " is a folder: name a file");
    if (fs::exists(target) && !options_.force) {
      throw_usage(target_ + " exists already: choose another --out, or --force to replace it");
    }
    const run::Request request = resolve_settings(options_, Action::kSave).request;
    if (request.models.size() > 1) {
      throw_usage("calibrate takes one model, and there are " +
                  std::to_string(request.models.size()) + ": name it with --model");
    }
    const bool prompts = !options_.prompts.empty() || options_.prompts_file;
    if (options_.from && prompts) {
      throw_usage("--from has its own prompts: give recordings or prompts, not both");
    }
  }

  run::Calibration calibrate(const Terminal& terminal, run::Observer& observer) const {
    const TemporaryFolder scratch("calibrate");
    const run::CalibrationRequest request{.save_arguments = save_arguments(),
                                          .replay_arguments = replay_arguments(),
                                          .from = options_.from.value_or(""),
                                          .cpu_isa = options_.cpu_isa,
                                          .threads = options_.threads,
                                          .runs = runs_,
                                          .safety = safety_,
                                          .cpuinfo = contents_of("/proc/cpuinfo"),
                                          .scratch = scratch.path(),
                                          .kvtool_version = KVTOOL_VERSION,
                                          .created_utc = run::utc_iso8601(terminal.services.now())};
    const auto run_kvtool = [&](const std::vector<std::string>& arguments) {
      return run_this_program(arguments, terminal.services.stop);
    };
    return run::run_calibration(request, run_kvtool, [&](const std::string& what) {
      observer.log(run::LogLevel::kDebug, what);
      observer.progress(what);
    });
  }

  Words common_words() const {
    Words words;
    words.add("--config", options_.config)
        .add_each("--model", options_.models)
        .add("--device", options_.device)
        .add("--device-label", options_.device_label)
        .add_list("--batch-size", options_.batch_sizes)
        .add("--request-number", options_.request_number);
    return words;
  }

  std::vector<std::string> save_arguments() const {
    return common_words()
        .add_each("--prompt", options_.prompts)
        .add("--prompts", options_.prompts_file)
        .add("--max-new-tokens", options_.max_new_tokens)
        .add_flag("--ignore-eos", options_.ignore_eos)
        .get();
  }

  std::vector<std::string> replay_arguments() const {
    return common_words().add("--ref-dir", options_.ref_dir).get();
  }

  RunOptions options_;
  std::string target_;
  int runs_ = kDefaultRuns;
  double safety_ = kDefaultSafety;
};

}  // namespace

std::unique_ptr<Command> make_calibrate_command() { return std::make_unique<CalibrateCommand>(); }

}  // namespace kvtool::cli
