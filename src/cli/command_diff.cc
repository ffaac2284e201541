#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <span>
#include <thread>

#include "batch_replay.h"
#include "command.h"
#include "diff.h"
#include "kvtool/cli/gate_choice.h"
#include "kvtool/cli/interrupt.h"
#include "kvtool/cli/options.h"
#include "kvtool/cli/progress.h"
#include "kvtool/report/text.h"
#include "reporting.h"
#include "verdicts.h"

namespace kvtool::cli {
namespace {

struct DiffArguments {
  std::string reference;
  std::string live;
  std::optional<std::string> gate;
  bool allow_different_weights = false;
  unsigned threads = 0;  // 0: one per core
  ReportTargets reports;
  bool quiet = false;
  bool verbose = false;
};

class Diff {
 public:
  Diff(Services& services, const DiffArguments& arguments, report::Reporter& reporter)
      : arguments_(arguments),
        reporter_(reporter),
        progress_(services.err, services.err_is_terminal && !arguments.quiet),
        verdicts_(arguments.gate ? std::optional(load_gate(*arguments.gate)) : std::nullopt) {}

  int run() {
    const auto started = std::chrono::steady_clock::now();
    PairedRecordings paired = pair_recordings(arguments_.reference, arguments_.live);
    report_unpaired(paired);
    // All before the first result: whatever cannot be compared ends the run here.
    for (RecordingPair& pair : paired.pairs) {
      throw_if_interrupted();
      plans_.push_back(plan_diff(std::move(pair), arguments_.allow_different_weights));
      warn_about(plans_.back());
    }
    compare_all();
    progress_.clear();
    summary_.verdicts = verdicts_.build();
    summary_.wall_seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    reporter_.finish(summary_);
    return summary_.failed() ? 1 : 0;
  }

 private:
  void report_unpaired(const PairedRecordings& paired) {
    for (const auto& path : paired.missing) {
      summary_.missing.push_back(path.string());
      spdlog::error("{} has no partner in {}: it was not compared, so the run fails", path.string(),
                    arguments_.live);
    }
    for (const auto& path : paired.extra) {
      spdlog::warn("{} has no partner in {} and is left out", path.string(), arguments_.reference);
    }
  }

  // Differences of provenance once for the whole run.
  void warn_about(const DiffPlan& plan) {
    for (const std::string& warning : plan.warnings) {
      spdlog::warn("{}", report::printable(warning));
    }
    if (plan.different_weights && warned_.insert(plan.model.slug).second) {
      spdlog::warn("{} was recorded with other weights: the comparison is of two models",
                   report::printable(plan.model.slug));
    }
    for (const analysis::ProvenanceDifference& difference : plan.provenance) {
      const std::string text = difference.label + ": " + difference.recorded + " against " +
                               difference.live + " (" + difference.why + ")";
      if (warned_.insert(text).second) spdlog::warn("{}", report::printable(text));
    }
  }

  [[nodiscard]] std::uint64_t block_positions() const {
    std::uint64_t largest = 1;
    for (const DiffPlan& plan : plans_) {
      largest = std::max(largest, block_positions_for(std::span(&plan.pair.reference, 1)));
    }
    return largest;
  }

  void compare_all() {
    const std::uint64_t block = block_positions();
    const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
    show_progress(0);
    compare_in_order(
        plans_, arguments_.threads == 0 ? cores : arguments_.threads,
        [&](const DiffPlan& plan) {
          return DiffOptions{.near_tie_ulps = verdicts_.gate_for(plan.context).near_tie_ulps,
                             .block_positions = block};
        },
        [&](const DiffPlan& plan, const DiffResult& result) { report(plan, result); });
  }

  void show_progress(std::size_t done) {
    progress_.update("comparing, " + std::to_string(done) + "/" + std::to_string(plans_.size()) +
                     " recordings");
  }

  void report(const DiffPlan& plan, const DiffResult& result) {
    progress_.clear();
    if (models_.insert(plan.model.slug).second) reporter_.model(plan.model);
    ++summary_.inputs;
    summary_.steps += result.input.timing.steps;
    summary_.compared_bytes += result.compared_bytes;
    verdicts_.add(plan.context, result.input);
    reporter_.input(result.input);
    show_progress(summary_.inputs);
  }

  const DiffArguments& arguments_;
  report::Reporter& reporter_;
  ProgressLine progress_;
  VerdictBuilder verdicts_;
  std::vector<DiffPlan> plans_;
  report::Summary summary_;
  std::set<std::string> models_;  // slugs that were reported
  std::set<std::string> warned_;
};

class DiffCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "diff"; }
  [[nodiscard]] const char* summary() const override {
    return "Compare two recordings, or two folders of them, without a model";
  }

  void declare(CLI::App& app) override {
    app.add_option("reference", arguments_.reference,
                   "The reference: a .kvc recording, or a folder at any height above recordings")
        ->option_text("A")
        ->required();
    app.add_option("compared", arguments_.live, "What is compared with it: one of the same kind")
        ->option_text("B")
        ->required();
    app.add_option("--threads", arguments_.threads,
                   "Recordings compared at the same time (default: one per core)")
        ->option_text("N")
        ->check(CLI::Range(1U, 4096U));
    add_gate_options(app, arguments_.gate, arguments_.allow_different_weights);
    add_json_option(app, arguments_.reports);
    add_report_options(app, arguments_.reports);
    add_verbosity_options(app, arguments_.quiet, arguments_.verbose);
    app.footer(R"(Needs neither torch nor the model. Recordings pair by model, batch size and
input. Tokens, logits and K/V are compared as a replay does it: step by step when
B is a replay of A (figures of its mode), otherwise up to where the two went
different ways (figures of the mode free).

Exit status: 0 the gate passes, 1 it fails or a recording of A has no partner in
B, 2 usage, 3 the recordings cannot be compared, 4 a file is damaged; 130 after
Ctrl-C.

Examples:
  Record here, replay and record there, compare anywhere:
    kvtool save --model models/MODEL.pt --prompt "Hello" --out reference
    kvtool replay --from reference/CPU --save --out own
    kvtool diff reference own

  Two recordings, with a gate and a report to look at:
    kvtool diff a/batch1_input0.kvc b/batch1_input0.kvc --gate 16bit-cross \
        --html diff.html

  An FP8 model against the original:
    kvtool diff fp16/ fp8/ --allow-different-weights --gate fp8)");
  }

  int execute(Services& services) override {
    const ReportingOptions reporting{name(), arguments_.reports, arguments_.quiet,
                                     arguments_.verbose};
    return with_reporter(services, reporting, [&](report::Reporter& reporter) {
      return Diff(services, arguments_, reporter).run();
    });
  }

 private:
  DiffArguments arguments_;
};

}  // namespace

std::unique_ptr<Command> make_diff_command() { return std::make_unique<DiffCommand>(); }

}  // namespace kvtool::cli
