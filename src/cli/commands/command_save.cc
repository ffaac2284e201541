#include <CLI/CLI.hpp>

#include "command.h"
#include "options.h"
#include "run_session.h"

namespace kvtool::cli {
namespace {

class SaveCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "save"; }
  [[nodiscard]] const char* summary() const override {
    return "Generate and record tokens, logits and KV cache of every input";
  }

  void declare(CLI::App& app) override {
    add_common_options(app, options_);
    add_length_options(app, options_);
    add_save_options(app, options_);
    add_logits_options(app, options_);
    add_resume_option(app, options_);
    app.footer(R"(Each input becomes one recording,
  outputs/TIME/kv_caches/DEVICE/MODEL/batchN_inputM.kvc
N is the batch size, M the number of the input. While it is being written its
name ends in .partial; an interrupted recording is readable to its last step.

Examples:
  Record, then replay what was recorded:
    kvtool save --model models/MODEL.pt --prompt "Hello" --max-new-tokens 20
    kvtool replay --from outputs/TIME/kv_caches/CPU

  Record a reference for other devices:
    kvtool save --model models/MODEL.pt --text book.txt --context 256,1024
    kvtool save --model models/MODEL.pt --prompts configs/prompts.jsonl \
        --batch-size 1,4 --out ref_cache

  Go on after a crash, or Ctrl-C: the same command, and
    kvtool save ... --out ref_cache --resume)");
  }

  int execute(Terminal& terminal) override {
    return run_session(terminal, name(), options_, Action::kSave);
  }

 private:
  RunOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_save_command() { return std::make_unique<SaveCommand>(); }

}  // namespace kvtool::cli
