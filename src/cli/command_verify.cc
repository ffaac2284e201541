#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>

#include "command.h"
#include "kvtool/base/error.h"
#include "kvtool/cli/interrupt.h"
#include "kvtool/cli/paths.h"
#include "kvtool/cli/progress.h"
#include "kvtool/format/verify.h"
#include "reporting.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;

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

  int execute(Services& services) override {
    return with_reporter(services, {name(), reports_, quiet_, false},
                         [&](report::Reporter& reporter) { return verify(services, reporter); });
  }

 private:
  int verify(Services& services, report::Reporter& reporter) const {
    const std::vector<fs::path> recordings = named_recordings(paths_, Unfinished::kIncluded);
    std::uint64_t total_bytes = 0;
    for (const fs::path& path : recordings) {
      std::error_code ignored;
      const auto size = fs::file_size(path, ignored);
      total_bytes += ignored ? 0 : size;
    }
    ProgressLine progress(services.err, services.err_is_terminal && !quiet_);
    report::VerifyTotals totals;
    format::VerifyOptions options;
    options.threads = threads_;
    options.on_progress = [&](std::uint64_t done) {
      throw_if_interrupted();
      progress.update(progress_bar("Verifying", done, total_bytes));
    };
    options.on_file = [&](const format::FileVerdict& verdict) {
      progress.clear();
      count(verdict, totals);
      reporter.verified(verdict);
    };
    const auto start = std::chrono::steady_clock::now();
    static_cast<void>(format::verify_files(recordings, options));
    progress.clear();
    totals.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    reporter.verified_all(totals);
    reporter.finish({});
    return totals.all_intact() ? 0 : static_cast<int>(ErrorCode::kCorrupt);
  }

  static void count(const format::FileVerdict& verdict, report::VerifyTotals& totals) {
    using format::FileState;
    ++totals.files;
    totals.bytes += verdict.bytes;
    totals.truncated += verdict.state == FileState::kTruncated ? 1 : 0;
    totals.damaged += verdict.state == FileState::kDamaged ? 1 : 0;
    totals.unreadable += verdict.state == FileState::kUnreadable ? 1 : 0;
    const bool recoverable =
        verdict.state == FileState::kTruncated || verdict.state == FileState::kDamaged;
    if (recoverable && totals.recoverable.empty()) {
      totals.recoverable = shell_quoted(verdict.path.string());
    }
  }

  std::vector<std::string> paths_;
  unsigned threads_ = 0;
  ReportTargets reports_;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> make_verify_command() { return std::make_unique<VerifyCommand>(); }

}  // namespace kvtool::cli
