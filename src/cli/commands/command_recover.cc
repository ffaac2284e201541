#include <CLI/CLI.hpp>

#include "command.h"
#include "failure.h"
#include "kvtool/run/recovery.h"
#include "options.h"
#include "reporting.h"

namespace kvtool::cli {
namespace {

class RecoverCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "recover"; }
  [[nodiscard]] const char* summary() const override {
    return "Make a complete recording out of a truncated or damaged one";
  }

  void declare(CLI::App& app) override {
    app.add_option("recording", input_, "A .kvc or .kvc.partial file; it is only read")
        ->option_text("FILE")
        ->required();
    app.add_option("-o,--out", output_, "The recording to write, *.kvc")
        ->option_text("OUT.kvc")
        ->required();
    app.add_flag("--salvage", salvage_,
                 "Also write what is intact behind the damage to OUT.kvc.salvaged.safetensors");
    app.add_flag("--force", force_, "Replace files that exist already");
    add_json_option(app, reports_);
    app.add_flag("-q,--quiet", quiet_, "The result only, no progress");
    app.footer(R"(OUT holds the prompt, and the steps up to the first damage or the early end. It
is verified before it gets its name. Exit status 0: nothing was lost; 6:
recovered with losses, which are listed; 4: nothing can be recovered.

Examples:
    kvtool recover batch1_input0.kvc.partial -o batch1_input0.kvc
    kvtool recover damaged.kvc -o recovered.kvc --salvage)");
  }

  int execute(Terminal& terminal) override {
    return with_observer(terminal, {name(), reports_, quiet_, false}, [&](run::Observer& observer) {
      const format::RecoverResult result =
          run::run_recovery({input_, output_, salvage_, force_}, terminal.services, observer);
      observer.finish({});
      return result.lost.empty() ? 0 : kLossyRecoveryStatus;
    });
  }

 private:
  std::string input_;
  std::string output_;
  bool salvage_ = false;
  bool force_ = false;
  ReportTargets reports_;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> make_recover_command() { return std::make_unique<RecoverCommand>(); }

}  // namespace kvtool::cli
