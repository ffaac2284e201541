#include <CLI/CLI.hpp>

#include "command.h"
#include "kvtool/base/error.h"
#include "kvtool/run/paths.h"
#include "kvtool/run/verification.h"
#include "options.h"
#include "reporting.h"

namespace kvtool::cli {
namespace {

class VerifyCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "verify"; }
  [[nodiscard]] const char* summary() const override {
    return "Check every byte of recordings and name what is damaged";
  }

  void declare(CLI::App& app) override {
    app.add_option("paths", paths_, "Recordings, or folders: every *.kvc and *.kvc.partial below")
        ->option_text("FILE|DIR...")
        ->required();
    app.add_option("--threads", threads_, "Threads that read and check (default: one per core)")
        ->option_text("N")
        ->check(CLI::Range(1u, 256u));
    add_json_option(app, reports_);
    app.add_flag("-q,--quiet", quiet_, "Only what is not intact, and the total; no progress");
    app.footer(
        R"(Names every damaged record: of the prompt's K/V the layer, K or V and positions;
of a step also the layers, K or V, where the recording has checksums for them.
Exit status 4 unless everything is complete and intact. A recording that ends
early counts as a failure; `kvtool recover` keeps what it holds.

Examples:
    kvtool verify ref_cache
    kvtool verify big.kvc --threads 8 --json report.json)");
  }

  int execute(Terminal& terminal) override {
    return with_observer(terminal, {name(), reports_, quiet_, false}, [&](run::Observer& observer) {
      const run::VerificationRequest request{
          run::named_recordings(paths_, run::Unfinished::kIncluded, observer), threads_};
      const run::VerifyTotals totals = run::run_verification(request, terminal.services, observer);
      observer.finish({});
      return totals.all_intact() ? 0 : static_cast<int>(ErrorCode::kCorrupt);
    });
  }

 private:
  std::vector<std::string> paths_;
  unsigned threads_ = 0;
  ReportTargets reports_;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> make_verify_command() { return std::make_unique<VerifyCommand>(); }

}  // namespace kvtool::cli
