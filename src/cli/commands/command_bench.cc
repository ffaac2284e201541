#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>

#include "command.h"
#include "kvtool/base/error.h"
#include "kvtool/run/format_bench.h"
#include "kvtool/run/made_recording.h"
#include "options.h"
#include "reporting.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;

class BenchCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "bench"; }
  [[nodiscard]] const char* summary() const override {
    return "Measure how fast recordings can be read";
  }

  void declare(CLI::App& app) override {
    app.add_option("recordings", paths_, ".kvc recordings")->option_text("FILE...");
    app.add_option("--repeats", options_.repeats, "Repeats of every measurement (default 5)")
        ->option_text("N")
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1000}));
    app.add_option("--only", options_.only,
                   "Measurements: open, steps, random, rebuild, verify (default: all)")
        ->option_text("NAME,...")
        ->delimiter(',')
        ->check(CLI::IsMember(run::format_measurement_names()));
    CLI::Option* make =
        app.add_option("--make", make_, "Write a recording with random K/V instead, to measure it")
            ->option_text("FILE.kvc");
    app.add_option("--bytes", bytes_, "Its size, such as 500M or 10G (default 1G)")
        ->option_text("SIZE")
        ->transform(CLI::AsSizeValue(true))
        ->needs(make);
    app.add_option("--like", like_, "Its K/V: those of this recording, over and over")
        ->option_text("FILE.kvc")
        ->needs(make);
    add_json_option(app, targets_);
    app.footer(R"(Needs neither torch nor a model. A first, uncounted round brings the files into
the page cache as far as they fit; the table shows median and range of the
repeats. What a cache is rebuilt to is compared with the recording's state.

A recording with the name of a command is given as ./cache.

Examples:
    kvtool bench ref_cache/CPU/MODEL/batch1_input0.kvc
    kvtool bench --make large.kvc --bytes 10G
    kvtool bench large.kvc --only open,random --json -
    kvtool bench cache --help)");
  }

  int execute(Terminal& terminal) override {
    if (make_.empty() == paths_.empty()) {
      throw_usage("name recordings to measure, or a file to write with --make");
    }
    for (const std::string& path : paths_) check_recording(path);
    if (like_) check_recording(*like_);
    return with_observer(terminal, {name(), targets_, false, false}, [&](run::Observer& observer) {
      const StopToken stop = terminal.services.stop;
      observer.bench(make_.empty() ? measure(stop) : made(stop));
      observer.finish({});
      return 0;
    });
  }

 private:
  static void check_recording(const std::string& path) {
    if (!fs::exists(path)) throw_usage(path + ": there is no such file");
    if (fs::is_directory(path)) throw_usage(path + " is a folder: name recordings in it");
  }

  [[nodiscard]] run::BenchResult measure(const StopToken& stop) const {
    run::BenchResult result;
    result.repeats = options_.repeats;
    for (const std::string& path : paths_) {
      result.recordings.push_back(run::bench_recording(path, options_, stop));
    }
    return result;
  }

  [[nodiscard]] run::BenchResult made(const StopToken& stop) const {
    run::BenchResult result;
    result.made = {make_, run::make_recording(make_, bytes_, like_, stop)};
    return result;
  }

  std::vector<std::string> paths_;
  run::FormatBenchOptions options_;
  std::string make_;
  std::optional<std::string> like_;
  std::uint64_t bytes_ = 1'000'000'000;
  ReportTargets targets_;
};

}  // namespace

std::unique_ptr<Command> make_bench_command() { return std::make_unique<BenchCommand>(); }

}  // namespace kvtool::cli
