#include <CLI/CLI.hpp>

#include "command.h"
#include "kvtool/cli/options.h"
#include "kvtool/cli/settings.h"
#include "session.h"

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
    app.footer(R"(Every step gets the recorded token and the recorded KV cache, predicts the next
token, and compares its token, logits and new K/V with the recording. A token
that differs shows as [predicted≠recorded] and is a tie (the reference's two
best logits are within 1 ulp), a near-tie (within 2 ulp) or a hard flip.

Exit status: 0 replayed, 1 a comparison failed (hard flip or non-finite values),
2 usage, 3 the recording belongs to another model, 4 a file is damaged,
5 model, device or engine; 130 after Ctrl-C.

Examples:
  Replay ref_cache/NVIDIA_H200/MODEL/*.kvc with the model in models/MODEL.pt:
    kvtool replay --from NVIDIA_H200

  Replay one recording, and keep what this device computes:
    kvtool replay --from ref_cache/CPU/MODEL/batch4_input2.kvc --save

  One input at a time, as JSON:
    kvtool replay --from CPU --batch 1 --json - > result.json)");
  }

  int execute(Services& services) override {
    return run_session(services, resolve_settings(options_, Action::kReplay, name()));
  }

 private:
  RunOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_replay_command() { return std::make_unique<ReplayCommand>(); }

}  // namespace kvtool::cli
