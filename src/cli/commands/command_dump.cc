#include <CLI/CLI.hpp>
#include <optional>

#include "command.h"
#include "kvtool/run/recording_dump.h"
#include "reporting.h"

namespace kvtool::cli {
namespace {

class DumpCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "dump"; }
  [[nodiscard]] const char* summary() const override {
    return "Export the KV cache at one step as a safetensors file";
  }

  void declare(CLI::App& app) override {
    app.add_option("recording", recording_, "A .kvc recording")->option_text("FILE")->required();
    app.add_option("--step", step_,
                   "Decode step after which the cache is exported; -1 is after the prefill "
                   "(default: the last one)")
        ->option_text("S")
        ->check(CLI::Range(std::int64_t{-1}, std::int64_t{1} << 40));
    app.add_option("--to", target_, "File to write")->option_text("FILE.safetensors")->required();
    app.add_flag("--force", force_, "Replace the file when it exists");
    app.footer(R"(Tensors: key.L and value.L for every layer L, [heads, positions, dim], in the
recorded dtype, and the tokens so far.

Examples:
    kvtool dump ref_cache/CPU/MODEL/batch1_input0.kvc --to cache.safetensors
    kvtool dump ref_cache/CPU/MODEL/batch1_input0.kvc --step 7 \
        --to step7.safetensors)");
  }

  int execute(Terminal& terminal) override {
    return with_observer(terminal, {name(), {}, false, false}, [&](run::Observer& observer) {
      observer.exported(run::dump_recording({recording_, step_, target_, force_}));
      observer.finish({});
      return 0;
    });
  }

 private:
  std::string recording_;
  std::optional<std::int64_t> step_;
  std::string target_;
  bool force_ = false;
};

}  // namespace

std::unique_ptr<Command> make_dump_command() { return std::make_unique<DumpCommand>(); }

}  // namespace kvtool::cli
