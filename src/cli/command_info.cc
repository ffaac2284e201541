#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "command.h"
#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/cli/paths.h"
#include "recording_info.h"
#include "reporting.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;

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

  int execute(Services& services) override {
    return with_reporter(services, {name(), {.json = json_ ? "-" : ""}, false, verbose_},
                         [&](report::Reporter& reporter) {
                           const int status = show(reporter);
                           reporter.finish({});
                           return status;
                         });
  }

 private:
  int show(report::Reporter& reporter) const {
    if (!fs::exists(path_)) throw_usage(path_ + ": there is no such file or folder");
    report::InfoResult result;
    if (!fs::is_directory(path_)) {
      result.recordings.push_back(read_recording_info(path_));
      reporter.info(result);
      return 0;
    }
    result.directory = true;
    for (const fs::path& path : recordings_below(path_)) {
      result.recordings.push_back(info_or_reason(path));
    }
    if (result.recordings.empty()) throw_usage(path_ + " holds no recording (*.kvc)");
    reporter.info(result);
    const bool unreadable =
        std::any_of(result.recordings.begin(), result.recordings.end(),
                    [](const report::RecordingInfo& info) { return !info.error.empty(); });
    return unreadable ? static_cast<int>(ErrorCode::kCorrupt) : 0;
  }

  static report::RecordingInfo info_or_reason(const fs::path& path) {
    try {
      return read_recording_info(path);
    } catch (const Error& error) {
      report::RecordingInfo info;
      info.path = path.string();
      std::error_code ignored;
      const auto size = fs::file_size(path, ignored);
      info.bytes = ignored ? 0 : size;
      info.error = error.what();
      return info;
    }
  }

  std::string path_;
  bool json_ = false;
  bool verbose_ = false;
};

}  // namespace

std::unique_ptr<Command> make_info_command() { return std::make_unique<InfoCommand>(); }

}  // namespace kvtool::cli
