#include <CLI/CLI.hpp>
#include <filesystem>

#include "command.h"
#include "kvtool/base/error.h"
#include "kvtool/cli/app.h"
#include "kvtool/cli/interrupt.h"
#include "kvtool/cli/paths.h"
#include "kvtool/cli/progress.h"
#include "kvtool/format/recover.h"
#include "kvtool/format/writer.h"
#include "reporting.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;

// Reading, copying and verifying touch every byte once each.
constexpr std::uint64_t kPasses = 3;

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

  int execute(Services& services) override {
    return with_reporter(services, {name(), reports_, quiet_, false},
                         [&](report::Reporter& reporter) { return recover(services, reporter); });
  }

 private:
  int recover(Services& services, report::Reporter& reporter) const {
    if (!fs::exists(input_)) throw_usage(input_ + ": there is no such file");
    check_output();
    std::error_code ignored;
    const std::uint64_t bytes = fs::file_size(input_, ignored);
    ProgressLine progress(services.err, services.err_is_terminal && !quiet_);
    format::RecoverOptions options;
    options.salvage = salvage_;
    options.on_progress = [&](std::uint64_t done) {
      throw_if_interrupted();
      progress.update(progress_bar("Recovering", done, ignored ? 0 : kPasses * bytes));
    };
    const format::RecoverResult result = format::recover_recording(input_, output_, options);
    progress.clear();
    reporter.recovered({input_, output_, result});
    reporter.finish({});
    return result.lost.empty() ? 0 : kLossyRecoveryStatus;
  }

  void check_output() const {
    std::error_code ignored;
    if (fs::equivalent(input_, output_, ignored)) {
      throw_usage(output_ + " is the file to recover: choose another name");
    }
    if (!output_.ends_with(format::kRecordingSuffix)) {
      throw_usage(output_ + ": a recording's name ends in .kvc");
    }
    if (fs::is_directory(output_)) throw_usage(output_ + " is a folder: name a file");
    for (const std::string& path : {output_, output_ + std::string(format::kSalvagedSuffix)}) {
      if (!force_ && fs::exists(path) && (path == output_ || salvage_)) {
        throw_usage(path + " exists already: choose another name, or --force to replace it");
      }
    }
  }

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
