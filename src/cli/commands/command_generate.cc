#include <CLI/CLI.hpp>

#include "command.h"
#include "options.h"
#include "run_session.h"

namespace kvtool::cli {
namespace {

class GenerateCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "generate"; }
  [[nodiscard]] const char* summary() const override {
    return "Generate text greedily and print it; records nothing";
  }

  void declare(CLI::App& app) override {
    add_common_options(app, options_);
    add_length_options(app, options_);
    app.footer(R"(Examples:
  Export a model once, then generate from text:
    python3 tools/export_model.py --model HuggingFaceTB/SmolLM2-135M-Instruct \
        --dtype bfloat16
    kvtool generate --model HuggingFaceTB/SmolLM2-135M-Instruct \
        --prompt "What is the capital of France?" --max-new-tokens 20

  All prompts of a file, four at a time:
    kvtool generate --model models/MODEL.pt --prompts configs/prompts.jsonl \
        --batch-size 4

  As a configuration says:
    kvtool generate --config configs/generate.json)");
  }

  int execute(Terminal& terminal) override {
    return run_session(terminal, name(), options_, Action::kGenerate);
  }

 private:
  RunOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_generate_command() { return std::make_unique<GenerateCommand>(); }

}  // namespace kvtool::cli
