#include <CLI/CLI.hpp>

#include "choices.h"
#include "command.h"
#include "idle_options.h"
#include "kvtool/base/error.h"
#include "kvtool/format/replay_mode.h"
#include "kvtool/run/faults.h"
#include "kvtool/run/selftest.h"
#include "options.h"
#include "reporting.h"
#include "settings.h"

namespace kvtool::cli {
namespace {

constexpr std::uint64_t kDefaultNewTokens = 32;

constexpr const char* kFooterBeforeFaults =
    R"(A gate that passes says little until it is known that it can fail. First the
replay without a fault must pass. Then each fault is put into the middle layer's
K/V of every decode step (or of one) of a live replay, and must be caught.
Both run as 'kvtool replay' would, in recorded batches, with --batch 1 or with
--parallel:
)";

constexpr const char* kFooterAfterFaults =
    R"(Faults with a strength are then made smaller until the gate lets them pass: the
smallest one still caught is the resolution of the gate. A strength of s stores
right + s x (wrong - right).

Exit status: 0 all faults caught, 1 one passed the gate or the replay without a
fault did not, 2 usage, 3 the recordings belong to another model, 4 a file is
damaged, 5 model, device or engine, 70 a bug in kvtool,
130 after Ctrl-C.

Examples:
    kvtool selftest --model models/MODEL.pt
    kvtool selftest --model models/MODEL.pt --gate my_gate.json --quick \
        --junit selftest.xml
  Against the noise of another device, in the way in which you replay:
    kvtool selftest --model models/MODEL.pt --from NVIDIA_H200
    kvtool selftest --model models/MODEL.pt --from NVIDIA_H200 --parallel)";

class SelftestCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "selftest"; }
  [[nodiscard]] const char* summary() const override {
    return "Prove that the gate can fail: put faults into a replay, one at a time";
  }

  void declare(CLI::App& app) override {
    add_common_options(app, options_);
    add_length_options(app, options_);
    app.get_option("--max-new-tokens")
        ->description("Tokens of the reference that is recorded (default 32)");
    app.get_option("--batch-size")
        ->description(
            "Inputs that run together; several sizes run one after the other (default 2)");
    app.remove_option(app.get_option("--ignore-eos"));
    declare_reference(app);
    declare_test(app);
    add_report_options(app, options_.reports);
    app.footer(std::string(kFooterBeforeFaults) + lines_of(run::kFaults) + kFooterAfterFaults);
  }

  int execute(Terminal& terminal) override {
    refuse_idle_reference_options(options_);
    run::Request request = resolve_settings(options_, Action::kGenerate).request;
    // What a configuration says of replays and lengths is meant for longer runs.
    request.max_new_tokens = options_.max_new_tokens.value_or(kDefaultNewTokens);
    request.from = options_.from.value_or("");
    if (options_.modes.empty()) request.replay_modes.clear();
    return with_observer(terminal, reporting_of(name(), options_), [&](run::Observer& observer) {
      if (request.models.empty()) {
        throw_usage("no model: give --model models/MODEL.pt, or \"models\" in the configuration");
      }
      return run::run_selftest(request, !quick_, terminal.services, observer) ? 0 : 1;
    });
  }

 private:
  void declare_reference(CLI::App& app) {
    add_reference_options(
        app, options_,
        "Recordings to replay: a device label below --ref-dir, or the path of a .kvc file or of a "
        "folder (default: recorded now, in a temporary folder)");
    add_shape_options(app, options_);
  }

  void declare_test(CLI::App& app) {
    const char* group = "Test";
    app.add_option("--gate", options_.gate,
                   "The gate that is tested: a built-in one or a gate file (default: fp32-cross, "
                   "16bit-cross or fp8, by the type of the model's K/V)")
        ->option_text("NAME|FILE")
        ->group(group);
    app.add_option("--mode", options_.modes,
                   "How the steps are fed (default: inject and what the gate names)")
        ->option_text("MODE[,MODE...]")
        ->delimiter(',')
        ->check(CLI::IsMember(names_of(format::kReplayModes)))
        ->group(group);
    app.add_flag("--quick", quick_, "Do not look for the smallest strength that is caught")
        ->group(group);
  }

  RunOptions options_;
  bool quick_ = false;
};

}  // namespace

std::unique_ptr<Command> make_selftest_command() { return std::make_unique<SelftestCommand>(); }

}  // namespace kvtool::cli
