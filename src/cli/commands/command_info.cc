#include <CLI/CLI.hpp>

#include "command.h"
#include "kvtool/base/error.h"
#include "kvtool/run/recording_info.h"
#include "reporting.h"

namespace kvtool::cli {
namespace {

class InfoCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "info"; }
  [[nodiscard]] const char* summary() const override {
    return "Show what a recording, or a folder of recordings, holds";
  }

  void declare(CLI::App& app) override {
    app.add_option("path", path_, "A .kvc recording, or a folder: one line per recording")
        ->option_text("FILE|DIR")
        ->required();
    app.add_flag("--json", json_, "JSON instead of text");
    app.add_flag("-v,--verbose", verbose_, "Whole texts");
    app.footer(R"(Needs neither torch nor the model. Unfinished recordings (.partial) are shown up
to their last whole step. Exit status 4 when a file cannot be read.

Examples:
    kvtool info outputs/TIME/kv_caches/CPU/MODEL/batch1_input0.kvc
    kvtool info ref_cache --json)");
  }

  int execute(Terminal& terminal) override {
    return with_observer(terminal, {name(), {.json = json_ ? "-" : ""}, false, verbose_},
                         [&](run::Observer& observer) {
                           const run::InfoResult info = run::read_info(path_, observer);
                           observer.info(info);
                           observer.finish({});
                           return info.readable() ? 0 : static_cast<int>(ErrorCode::kCorrupt);
                         });
  }

 private:
  std::string path_;
  bool json_ = false;
  bool verbose_ = false;
};

}  // namespace

std::unique_ptr<Command> make_info_command() { return std::make_unique<InfoCommand>(); }

}  // namespace kvtool::cli
