#include <CLI/CLI.hpp>

#include "command.h"
#include "options.h"
#include "run_session.h"

namespace kvtool::cli {
namespace {

class ReplayCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "replay"; }
  [[nodiscard]] const char* summary() const override {
    return "Replay recordings on this device and compare every token and KV row";
  }

  void declare(CLI::App& app) override {
    add_replay_options(app, options_);
    add_common_options(app, options_);
    app.add_flag("--save", options_.save, "Also record this device's own rows")->group("Recording");
    add_save_options(app, options_);
    add_report_options(app, options_.reports);
    app.footer(R"(The replay predicts every recorded token again and compares tokens, logits and
K/V rows. A token that differs shows as [predicted≠recorded] and is a tie (in
the reference's logits the two are within 1 ulp), noise (the measured noise of
the logits explains their gap) or a hard flip. Recordings without a sample of
logits show no noise: there it is a tie, a near-tie (within 2 ulp) or a hard
flip. What passes with --mode inject and fails with --mode forced points
at the writing, scaling or accumulation of K/V; what fails with inject at the
computation.

Exit status: 0 the gate passed, 1 it failed, 2 usage, 3 the recording belongs to
another model, 4 a file is damaged, 5 model, device or engine, 70 a bug in
kvtool, 130 after Ctrl-C.

Examples:
  Replay ref_cache/NVIDIA_H200/MODEL/*.kvc with the model in models/MODEL.pt:
    kvtool replay --from NVIDIA_H200

  All modes, judged in CI, with a page to look at:
    kvtool replay --from NVIDIA_H200 --mode inject,forced,free \
        --gate 16bit-cross --junit kvtool.xml --html kvtool.html

  Replay one recording, and keep what this device computes:
    kvtool replay --from ref_cache/CPU/MODEL/batch4_input2.kvc --save

  FP8 weights against recordings of the 16-bit model:
    kvtool replay --from ref_cache/CPU/MODEL --model models/MODEL_fp8.pt \
        --allow-different-weights --gate fp8)");
  }

  int execute(Terminal& terminal) override {
    return run_session(terminal, name(), options_, Action::kReplay);
  }

 private:
  RunOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_replay_command() { return std::make_unique<ReplayCommand>(); }

}  // namespace kvtool::cli
