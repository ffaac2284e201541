#include <CLI/CLI.hpp>

#include "command.h"
#include "options.h"
#include "run_session.h"

namespace kvtool::cli {
namespace {

class RunCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "run"; }
  [[nodiscard]] const char* summary() const override {
    return "Do what the configuration says: generate, save, replay, or replay and save";
  }

  void declare(CLI::App& app) override {
    add_common_options(app, options_);
    add_length_options(app, options_);
    add_replay_options(app, options_);
    add_save_options(app, options_);
    add_logits_options(app, options_);
    add_resume_option(app, options_);
    add_report_options(app, options_.reports);
    app.footer(R"(kv_cache.load and kv_cache.save of the configuration choose:
  neither  generate
  save     save
  load     replay
  both     replay, and record this device's own rows

Examples:
    kvtool run --config configs/save.json
    kvtool run                       (with hyperparameter.json of this folder))");
  }

  int execute(Terminal& terminal) override {
    return run_session(terminal, name(), options_, Action::kAsConfigured);
  }

 private:
  RunOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_run_command() { return std::make_unique<RunCommand>(); }

}  // namespace kvtool::cli
