#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>

#include "command.h"
#include "kvtool/base/error.h"
#include "kvtool/cli/paths.h"
#include "kvtool/format/reader.h"
#include "kvtool/format/safetensors.h"
#include "reporting.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;

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

  int execute(Services& services) override {
    return with_reporter(services, {name(), {}, false, false}, [&](report::Reporter& reporter) {
      reporter.exported(dump());
      reporter.finish({});
      return 0;
    });
  }

 private:
  [[nodiscard]] report::DumpResult dump() const {
    if (!fs::exists(recording_)) throw_usage(recording_ + ": there is no such file");
    check_target();
    const format::Recording recording = format::Recording::open(recording_);
    if (recording.num_cached_positions() == 0) {
      throw_usage(recording_ + " holds no K/V" +
                  (recording.complete() ? "" : ": " + recording.truncation()));
    }
    const auto prompt_length = static_cast<std::int64_t>(recording.header().prompt_length);
    const std::int64_t last =
        static_cast<std::int64_t>(recording.num_cached_positions()) - prompt_length - 1;
    const std::int64_t step = step_.value_or(last);
    format::write_safetensors(recording, step, target_);
    return {recording_, step, static_cast<std::uint64_t>(prompt_length + step + 1), target_,
            fs::file_size(target_)};
  }

  void check_target() const {
    if (is_recording_path(target_)) throw_usage(target_ + " has the name of a recording");
    if (fs::is_directory(target_)) throw_usage(target_ + " is a folder: name a file");
    if (!force_ && fs::exists(target_)) {
      throw_usage(target_ + " exists already: choose another name, or --force to replace it");
    }
  }

  std::string recording_;
  std::optional<std::int64_t> step_;
  std::string target_;
  bool force_ = false;
};

}  // namespace

std::unique_ptr<Command> make_dump_command() { return std::make_unique<DumpCommand>(); }

}  // namespace kvtool::cli
