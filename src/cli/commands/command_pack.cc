#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "command.h"
#include "failure.h"
#include "kvtool/base/error.h"
#include "kvtool/run/packing.h"
#include "kvtool/run/paths.h"
#include "options.h"
#include "reporting.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPackFooter =
    R"(Packed recordings keep their names, and every command reads them. Each block
is unpacked and compared with the original before it is written, and the packed file is
read back before it takes the original's place.
Recordings that are packed already stay as they are.

Examples:
    kvtool pack ref_cache
    kvtool pack ref_cache/CPU/MODEL/batch1_input0.kvc -o packed.kvc)";

constexpr const char* kUnpackFooter =
    R"(Gives back the file that was packed, byte for byte, and proves it by its
checksum before it takes the packed file's place. Recordings that are not packed
stay as they are.

Examples:
    kvtool unpack ref_cache
    kvtool unpack packed.kvc -o batch1_input0.kvc)";

// Both directions: the same options, the same report.
class PackCommand : public Command {
 public:
  explicit PackCommand(bool unpack) : unpack_(unpack) {}

  [[nodiscard]] const char* name() const override { return unpack_ ? "unpack" : "pack"; }
  [[nodiscard]] const char* summary() const override {
    return unpack_ ? "Turn packed recordings back into what they were"
                   : "Make recordings smaller without losing a bit";
  }

  void declare(CLI::App& app) override {
    app.add_option("paths", paths_, "Recordings (.kvc), or folders: all recordings below them")
        ->option_text("FILE|DIR...")
        ->required();
    app.add_option("-o,--out", output_, "Write a new file and keep the recording; one FILE only")
        ->option_text("FILE.kvc");
    app.add_flag("--force", force_, "Replace the --out file when it exists");
    app.add_option("--threads", threads_, "Recordings at a time (default: as many as cores)")
        ->option_text("N")
        ->check(CLI::Range(1, 1024));
    add_json_option(app, reports_);
    add_verbosity_options(app, quiet_, verbose_);
    app.footer(unpack_ ? kUnpackFooter : kPackFooter);
  }

  int execute(Terminal& terminal) override {
    return with_observer(
        terminal, {name(), reports_, quiet_, verbose_}, [&](run::Observer& observer) {
          const run::PackingOutcome outcome = run::run_packing(
              {unpack_, recordings(observer), output_, threads_}, terminal.services.stop, observer);
          observer.packing(outcome.result);
          observer.finish({});
          return outcome.failure ? exit_status_of(*outcome.failure) : 0;
        });
  }

 private:
  [[nodiscard]] std::vector<fs::path> recordings(run::Observer& observer) const {
    // Whoever writes an unfinished one is not done.
    std::vector<fs::path> found =
        run::named_recordings(paths_, run::Unfinished::kLeftOut, observer);
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    check_output(found.size());
    return found;
  }

  void check_output(std::size_t recordings) const {
    if (output_.empty()) return;
    if (recordings != 1 || fs::is_directory(paths_.front())) {
      throw_usage("--out names one file, so give one recording");
    }
    if (fs::is_directory(output_)) throw_usage(output_ + " is a folder: name a file");
    run::check_holds_recording(output_);
    if (!force_ && fs::exists(output_)) {
      throw_usage(output_ + " exists already: choose another name, or --force to replace it");
    }
  }

  bool unpack_;
  std::vector<std::string> paths_;
  std::string output_;
  bool force_ = false;
  unsigned threads_ = 0;
  ReportTargets reports_;
  bool quiet_ = false;
  bool verbose_ = false;
};

}  // namespace

std::unique_ptr<Command> make_pack_command() { return std::make_unique<PackCommand>(false); }
std::unique_ptr<Command> make_unpack_command() { return std::make_unique<PackCommand>(true); }

}  // namespace kvtool::cli
