#include "fault_trials.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "kvtool/base/error.h"
#include "verdicts.h"

namespace kvtool::run {
namespace {

// Halvings of the distance between the smallest strength that is tried and the
// one that is known to be caught, on a logarithmic scale: a tenth of an octave.
constexpr int kSearchReplays = 7;
constexpr double kLeastStrength = 0x1p-20;

// How the gate judged one replay of all batches.
struct Judgement {
  std::vector<analysis::RuleResult> failed_rules;  // worst excess first
  analysis::Figures figures;
  std::optional<analysis::Departure> departure;  // of the steps
  std::string departure_text;
  std::string gate;
  std::uint64_t inputs = 0;
  std::uint64_t steps = 0;

  [[nodiscard]] bool passed() const { return failed_rules.empty(); }
};

// How far a rule is exceeded, as a ratio; a bound of 0 is exceeded infinitely. A
// missing figure says nothing about a fault and counts least.
double excess(const analysis::RuleResult& result) {
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  if (!result.measured) return 0.0;
  const double measured = *result.measured;
  if (!std::isfinite(measured)) return kInfinite;
  double ratio = 1.0;
  if (result.rule.max && measured > *result.rule.max) {
    ratio = *result.rule.max > 0.0 ? measured / *result.rule.max : kInfinite;
  }
  if (result.rule.min && measured < *result.rule.min) {
    ratio = std::max(ratio, measured > 0.0 ? *result.rule.min / measured : kInfinite);
  }
  return ratio;
}

// Of equal excess, what was measured on K and V comes first: tokens follow from it.
bool says_more(const analysis::RuleResult& a, const analysis::RuleResult& b) {
  const auto is_kv = [](const analysis::RuleResult& result) {
    return result.figure.find(".kv.") != std::string::npos;
  };
  return std::pair(excess(a), is_kv(a)) > std::pair(excess(b), is_kv(b));
}

std::string describe_departure(const analysis::KvSummary& kv) {
  const analysis::Departure& departure = *kv.departure;
  const std::string layer = fmt::format(
      "{} of layer {}", departure.kind == analysis::KvKind::kKey ? "K" : "V", departure.layer);
  const std::string place =
      fmt::format("at position {} of {}", kv.departure_first_position + departure.position,
                  analysis::to_string(kv.departure_input));
  if (departure.figure == "nonfinite") return layer + " has the first NaN or Inf, " + place;
  const std::string name = departure.figure == "relative_l2" ? "relative L2" : "scale error";
  return fmt::format("{} {}: {} {:.3g}, elsewhere {:.3g}", layer,
                     departure.whole_layer ? std::string("as a whole") : place, name,
                     departure.measured, departure.typical);
}

class Selftest {
 public:
  Selftest(Session& session, engine::Model& model, const SelftestReference& reference,
           const SelftestOptions& options)
      : session_(session),
        model_(model),
        reference_(reference),
        options_(options),
        block_positions_(block_positions_for(reference.entries)) {}

  SelftestResult run() {
    const auto started = std::chrono::steady_clock::now();
    const std::vector<FaultPlan> plans = plan_faults(model_.info(), site());
    control_ = judge(std::nullopt, "replay without a fault");
    SelftestResult result;
    result.model_slug = model_.info().slug;
    result.gate = control_.gate;
    result.inputs = control_.inputs;
    result.steps = control_.steps;
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
      throw_usage(first.path.string() +
                  " holds no steps: a selftest needs recordings of at least two tokens");
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

  [[nodiscard]] analysis::GateContext context_of(const ReferenceEntry& entry) {
    const engine::ModelInfo& info = model_.info();
    return {info.model_id, info.slug, info.dtype, entry.device_label, session_.device_label()};
  }

  Judgement judge(const std::optional<engine::Fault>& fault, const std::string& what) {
    VerdictBuilder verdicts(options_.gate);
    BatchReplayOptions options;
    const analysis::Gate gate = verdicts.gate_for(context_of(reference_.entries.front()));
    options.modes = options_.modes.empty() ? analysis::modes_for(gate) : options_.modes;
    options.fault = fault;
    options.near_tie_ulps = gate.near_tie_ulps;
    options.block_positions = block_positions_;
    Judgement judgement;
    for (const PlannedBatch& batch : reference_.batches) {
      BatchReplayResult replayed =
          replay_batch(model_, reference_.entries, batch, options, {},
                       [&](format::ReplayMode) { return session_.progress(what); },
                       session_.observer());
      for (ReplayedRow& row : replayed.rows) add(row, verdicts, judgement);
    }
    for (const Verdict& verdict : verdicts.build()) take(verdict, judgement);
    return judgement;
  }

  void add(ReplayedRow& row, VerdictBuilder& verdicts, Judgement& judgement) {
    InputResult input;
    input.model_slug = model_.info().slug;
    input.batch_size = row.entry->batch_size;
    input.input_index = row.entry->input_index;
    input.prompt_length = row.entry->prompt_length;
    ++judgement.inputs;
    for (const ModeReplay& mode : row.modes) judgement.steps += mode.timing.steps;
    input.replay.emplace().modes = std::move(row.modes);
    verdicts.add(context_of(*row.entry), input);
  }

  static void take(const Verdict& verdict, Judgement& judgement) {
    judgement.gate = verdict.gate.gate;
    judgement.figures.insert(verdict.figures.begin(), verdict.figures.end());
    for (const analysis::RuleResult& rule : verdict.gate.rules) {
      if (!rule.passed) judgement.failed_rules.push_back(rule);
    }
    std::stable_sort(judgement.failed_rules.begin(), judgement.failed_rules.end(), says_more);
    if (verdict.run.modes.empty() || judgement.departure) return;
    const analysis::KvSummary& kv = verdict.run.modes.front().steps.kv;
    judgement.departure = kv.departure;
    if (kv.departure) judgement.departure_text = describe_departure(kv);
  }

  Session& session_;
  engine::Model& model_;
  const SelftestReference& reference_;
  const SelftestOptions& options_;
  std::uint64_t block_positions_;
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

SelftestResult try_faults(Session& session, engine::Model& model,
                          const SelftestReference& reference, const SelftestOptions& options) {
  return Selftest(session, model, reference, options).run();
}

}  // namespace kvtool::run
