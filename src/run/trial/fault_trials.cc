#include "fault_trials.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"

namespace kvtool::run {
namespace {

// Halvings of the distance between the smallest strength that is tried and the
// one that is known to be caught, on a logarithmic scale: a tenth of an octave.
constexpr int kSearchReplays = 7;
constexpr double kLeastStrength = 0x1p-20;

class Selftest {
 public:
  Selftest(Session& session, engine::Model& model, const ReferenceSet& reference,
           const SelftestOptions& options)
      : session_(session),
        model_(model),
        reference_(reference),
        options_(options),
        runner_(model, {&reference, 1}, options.gate, session.device_label(), session.observer()) {}

  SelftestResult run() {
    const auto started = std::chrono::steady_clock::now();
    const std::vector<FaultPlan> plans = plan_faults(model_.info(), site());
    control_ = judge(std::nullopt, "replay without a fault");
    SelftestResult result;
    result.model_slug = model_.info().slug;
    result.gate = control_.gate;
    result.cache = fmt::format("{}", fmt::join(control_.caches, ", "));
    result.shape = options_.shape;
    result.inputs = control_.inputs;
    result.steps = control_.steps;
    result.measures_noise = control_.measures_noise;
    result.control_passed = control_.passed();
    result.control_failures = control_.failed_rules;
    // The faults as they are first: what they show matters more than how small they may get.
    for (std::size_t i = 0; i < plans.size(); ++i) {
      tried_.push_back(plans[i]);
      result.faults.push_back(
          try_fault(tried_.back(), fmt::format("fault {}/{}", i + 1, plans.size())));
    }
    // Where the noise fails already, every strength would seem to be caught.
    for (std::size_t i = 0; options_.search && control_.passed() && i < plans.size(); ++i) {
      search(tried_[i], result.faults[i]);
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
    result.seconds = elapsed.count();
    return result;
  }

 private:
  // A step that the first row of every batch has: one NaN goes there.
  [[nodiscard]] FaultSite site() const {
    FaultSite site;
    std::uint64_t common = std::numeric_limits<std::uint64_t>::max();
    for (const PlannedBatch& batch : reference_.batches) {
      const ReferenceEntry& first = reference_.entries[batch.rows.front().entry];
      common = std::min(common, first.num_steps);
      if (first.num_steps > 0) continue;
      throw_usage(first.path.filename().string() +
                  " ends with its first token: a selftest disturbs a step, so it needs recordings "
                  "of at least two tokens; use other prompts or a larger " +
                  setting("max_new_tokens"));
    }
    for (const ReferenceEntry& entry : reference_.entries) {
      site.longest_prompt = std::max(site.longest_prompt, entry.prompt_length);
      site.most_steps = std::max(site.most_steps, entry.num_steps);
    }
    site.step = common / 2;
    return site;
  }

  // `plan` is moved to its other layer when it changes nothing where it is.
  FaultResult try_fault(FaultPlan& plan, const std::string& what) {
    FaultResult result;
    result.name = plan.name;
    result.description = plan.description;
    result.strength = plan.fault.strength;
    result.strength_unit = plan.unit;
    result.skipped = plan.skipped;
    if (!plan.skipped.empty()) return result;
    const std::string progress = what + " " + plan.name;
    Judgement judged = judge(plan.fault, progress);
    if (plan.other_layer && judged.figures == control_.figures) {
      plan = moved_to(plan, *plan.other_layer);
      result.description = plan.description;
      judged = judge(plan.fault, progress);
      if (judged.figures == control_.figures) {
        plan.skipped = "these layers' keys do not depend on their position";
        result.skipped = plan.skipped;
        return result;
      }
    }
    result.caught = !judged.passed();
    result.failed_rules = std::move(judged.failed_rules);
    result.departure = std::move(judged.departure_text);
    result.located = judged.departure && judged.departure->layer == plan.fault.layer;
    return result;
  }

  // Takes it that what catches a strength catches every larger one.
  void search(const FaultPlan& plan, FaultResult& result) {
    if (plan.unit.empty() || !plan.skipped.empty()) return;
    if (!result.caught) {
      result.largest_missed = plan.fault.strength;
      return;
    }
    double least = kLeastStrength;
    result.smallest_caught = plan.fault.strength;
    engine::Fault fault = plan.fault;
    for (int i = 0; i < kSearchReplays; ++i) {
      fault.strength = std::sqrt(least * *result.smallest_caught);
      const std::string what =
          fmt::format("{}, smallest strength {}/{}", plan.name, i + 1, kSearchReplays);
      if (judge(fault, what).passed()) {
        result.largest_missed = least = fault.strength;
      } else {
        result.smallest_caught = fault.strength;
      }
    }
  }

  Judgement judge(const std::optional<engine::Fault>& fault, const std::string& what) {
    return runner_.run({.kv_cache = options_.kv_cache,
                        .fault = fault,
                        .modes = options_.modes,
                        .parallel = options_.shape == ReplayShape::kParallel,
                        .parallel_memory_bytes = options_.parallel_memory_bytes},
                       session_.progress(what));
  }

  Session& session_;
  engine::Model& model_;
  const ReferenceSet& reference_;
  const SelftestOptions& options_;
  TrialRunner runner_;
  Judgement control_;
  std::vector<FaultPlan> tried_;  // where they were put in the end
};

}  // namespace

std::string_view gate_for_kv(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "fp32-cross";
    case DType::kFloat16:
    case DType::kBFloat16: return "16bit-cross";
    case DType::kFloat8E4M3:
    case DType::kFloat8E5M2: return "fp8";
  }
  return "fp8";
}

SelftestResult try_faults(Session& session, engine::Model& model, const ReferenceSet& reference,
                          const SelftestOptions& options) {
  return Selftest(session, model, reference, options).run();
}

}  // namespace kvtool::run
