#include "kvtool/run/diff.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "batch_replay.h"
#include "compare_pair.h"
#include "run/reference/open_recordings.h"
#include "run/reference/pair_recordings.h"
#include "verdicts.h"

namespace kvtool::run {
namespace {

class Diff {
 public:
  Diff(const DiffRequest& request, const Services& services, Observer& observer)
      : request_(request),
        stop_(services.stop),
        recordings_(services.files),
        observer_(observer),
        verdicts_(request.gate) {}

  Summary run() {
    const auto started = std::chrono::steady_clock::now();
    PairedRecordings paired =
        pair_recordings(request_.reference, request_.live, recordings_, stop_, observer_);
    report_unpaired(paired);
    // All before the first result: whatever cannot be compared ends the run here.
    for (RecordingPair& pair : paired.pairs) {
      stop_.throw_if_requested();
      plans_.push_back(plan_diff(std::move(pair), request_.allow_different_weights));
      warn_about(plans_.back());
    }
    warn_provenance();
    compare_all();
    observer_.progress_done();
    summary_.verdicts = verdicts_.build();
    summary_.wall_seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    observer_.finish(summary_);
    return summary_;
  }

 private:
  void warn(const std::string& message) { observer_.log(LogLevel::kWarning, message); }

  void report_unpaired(const PairedRecordings& paired) {
    for (const auto& path : paired.missing) {
      summary_.missing.push_back(path.string());
      observer_.log(LogLevel::kError, path.string() + " has no partner in " +
                                          request_.live.string() +
                                          ": it was not compared, so the run fails");
    }
    for (const auto& path : paired.extra) {
      warn(path.string() + " has no partner in " + request_.reference.string() +
           " and is left out");
    }
  }

  void warn_about(const DiffPlan& plan) {
    for (const std::string& warning : plan.warnings) warn(warning);
    warn_about_models(plan);
  }

  // Once for the whole run.
  void warn_provenance() {
    analysis::ProvenanceSummary summary;
    for (const DiffPlan& plan : plans_) summary.add(plan.provenance);
    for (const analysis::ProvenanceDifference& difference : summary.build()) {
      warn(difference.title() + ": " + difference.recorded + " against " + difference.live + " (" +
           difference.why + ")");
    }
  }

  void warn_about_models(const DiffPlan& plan) {
    const auto warn_of = [&](bool differs, const std::string& what) {
      const std::string text =
          plan.model.slug + " was recorded with " + what + ": the comparison is of two models";
      if (differs && warned_.insert(text).second) warn(text);
    };
    warn_of(plan.differences.weights, "other weights");
    warn_of(plan.differences.config, "another config");
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
        plans_, request_.threads == 0 ? cores : request_.threads, stop_,
        [&](const DiffPlan& plan) {
          return DiffOptions{.flip_bounds = verdicts_.gate_for(plan.context).flip_bounds,
                             .block_positions = block};
        },
        [&](const DiffPlan& plan, const DiffResult& result) { report(plan, result); });
  }

  void show_progress(std::size_t done) {
    observer_.progress("comparing, " + std::to_string(done) + "/" + std::to_string(plans_.size()) +
                       " recordings");
  }

  void report(const DiffPlan& plan, const DiffResult& result) {
    observer_.progress_done();
    if (models_.insert(plan.model.slug).second) observer_.model(plan.model);
    ++summary_.inputs;
    summary_.steps += result.input.timing.steps;
    summary_.compared_bytes += result.compared_bytes;
    verdicts_.add(plan.context, result.input);
    observer_.input(result.input);
    show_progress(summary_.inputs);
  }

  const DiffRequest& request_;
  StopToken stop_;
  OpenRecordings recordings_;
  Observer& observer_;
  VerdictBuilder verdicts_;
  std::vector<DiffPlan> plans_;
  Summary summary_;
  std::set<std::string> models_;  // slugs that were reported
  std::set<std::string> warned_;
};

}  // namespace

Summary run_diff(const DiffRequest& request, const Services& services, Observer& observer) {
  return Diff(request, services, observer).run();
}

}  // namespace kvtool::run
