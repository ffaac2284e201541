
#include <CLI/CLI.hpp>

#include "command.h"
#include "idle_options.h"
#include "kvtool/run/calibration_runs.h"
#include "options.h"
#include "reporting.h"
#include "run_session.h"
#include "settings.h"

namespace kvtool::cli {
namespace {

class CalibrateCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "calibrate"; }
  [[nodiscard]] const char* summary() const override {
    return "Measure this machine's rounding noise and write a gate from it";
  }

  void declare(CLI::App& app) override {
    const char* group = "Calibration";
    app.add_option("--out", request_.target, "The gate file to write")
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
    app.add_option("--runs", request_.runs,
                   "Replays, each with other settings (default 8, at least 5)")
        ->option_text("N")
        ->check(CLI::Range(run::kMinCalibrationRuns, 1000))
        ->group(group);
    app.add_option("--safety", request_.safety,
                   "Allow this many times the noise that was measured (default 2)")
        ->option_text("FACTOR")
        ->check(CLI::Range(1.0, 1000.0))
        ->group(group);
    app.add_flag("--force", options_.force, "Replace a gate file that exists already")
        ->group(group);
    add_common_options(app, options_);
    add_length_options(app, options_);
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
    refuse_idle_reference_options(options_);
    request_.run = resolve_settings(options_, Action::kGenerate).request;
    request_.run.from = options_.from.value_or("");
    return with_observer(terminal, reporting_of(name(), options_), [&](run::Observer& observer) {
      if (!options_.from) check_given(request_.run, "calibrate --out gates/MODEL.json");
      run::run_calibration(request_, terminal.services, observer);
      return 0;
    });
  }

 private:
  RunOptions options_;
  run::CalibrationRequest request_;
};

}  // namespace

std::unique_ptr<Command> make_calibrate_command() { return std::make_unique<CalibrateCommand>(); }

}  // namespace kvtool::cli
