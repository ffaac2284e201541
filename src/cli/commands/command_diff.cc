#include <CLI/CLI.hpp>
#include <optional>

#include "command.h"
#include "kvtool/run/diff.h"
#include "kvtool/run/load_gate.h"
#include "options.h"
#include "reporting.h"

namespace kvtool::cli {
namespace {

struct DiffArguments {
  std::string reference;
  std::string live;
  std::optional<std::string> gate;
  bool allow_different_weights = false;
  unsigned threads = 0;  // 0: one per core
  ReportTargets reports;
  bool quiet = false;
  bool verbose = false;
};

class DiffCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "diff"; }
  [[nodiscard]] const char* summary() const override {
    return "Compare two recordings, or two folders of them, without a model";
  }

  void declare(CLI::App& app) override {
    app.add_option("reference", arguments_.reference,
                   "The reference: a .kvc recording, or a folder at any height above recordings")
        ->option_text("A")
        ->required();
    app.add_option("compared", arguments_.live, "What is compared with it: one of the same kind")
        ->option_text("B")
        ->required();
    app.add_option("--threads", arguments_.threads,
                   "Recordings compared at the same time (default: one per core)")
        ->option_text("N")
        ->check(CLI::Range(1U, 4096U));
    add_gate_options(app, arguments_.gate, arguments_.allow_different_weights);
    add_json_option(app, arguments_.reports);
    add_report_options(app, arguments_.reports);
    add_verbosity_options(app, arguments_.quiet, arguments_.verbose);
    app.footer(R"(Needs neither torch nor the model. Recordings pair by model, batch size and
input. Tokens, logits and K/V are compared as a replay does it: step by step
when B is a replay of A (figures of its mode), otherwise up to where the two
went different ways (figures of the mode free).

Exit status: 0 the gate passes, 1 it fails or a recording of A has no partner in
B, 2 usage, 3 the recordings cannot be compared, 4 a file is damaged, 70 a bug
in kvtool, 130 after Ctrl-C.

Examples:
  Record here, replay and record there, compare anywhere:
    kvtool save --model models/MODEL.pt --prompt "Hello" --out reference
    kvtool replay --from reference/CPU --save --out own
    kvtool diff reference own

  Two recordings, with a gate and a report to look at:
    kvtool diff a/batch1_input0.kvc b/batch1_input0.kvc --gate 16bit-cross \
        --html diff.html

  An FP8 model against the original:
    kvtool diff fp16/ fp8/ --allow-different-weights --gate fp8)");
  }

  int execute(Terminal& terminal) override {
    const ReportingOptions reporting{name(), arguments_.reports, arguments_.quiet,
                                     arguments_.verbose};
    return with_observer(terminal, reporting, [&](run::Observer& observer) {
      const run::DiffRequest request{
          .reference = arguments_.reference,
          .live = arguments_.live,
          .gate = arguments_.gate ? std::optional(run::load_gate(*arguments_.gate)) : std::nullopt,
          .allow_different_weights = arguments_.allow_different_weights,
          .threads = arguments_.threads};
      return run::run_diff(request, terminal.services, observer).failed() ? 1 : 0;
    });
  }

 private:
  DiffArguments arguments_;
};

}  // namespace

std::unique_ptr<Command> make_diff_command() { return std::make_unique<DiffCommand>(); }

}  // namespace kvtool::cli
