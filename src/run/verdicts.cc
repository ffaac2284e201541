#include "verdicts.h"

#include <utility>

#include "kvtool/base/setting.h"

namespace kvtool::run {
namespace {

bool same_group(const analysis::GateContext& a, const analysis::GateContext& b) {
  return a.model_slug == b.model_slug && a.reference_device == b.reference_device &&
         a.device == b.device && a.dtype == b.dtype && a.demanded_mode == b.demanded_mode &&
         a.reference_cache == b.reference_cache && a.cache == b.cache &&
         a.measures_noise == b.measures_noise && a.routed_layers == b.routed_layers;
}

void add_numerics(const std::optional<analysis::NumericsAgreement>& input,
                  std::optional<analysis::NumericsAgreement>& run) {
  if (!input) return;
  if (!run) {
    run = input;
    return;
  }
  run->policy.add(input->policy);
  run->platform.add(input->platform);
}

// What a default gate that passes does not say of another cache, which may be meant to cost
// something.
std::string describe_other_cache(const Verdict& verdict) {
  const bool passed = verdict.finding == analysis::Finding::kReproducible;
  if (!passed || verdict.gate_chosen || verdict.cache == verdict.reference_cache) return {};
  return " Its K/V cache is another than the reference's, and the default gate looks for hard "
         "flips "
         "and NaN alone: the figures say what the cache costs, and a gate of your own (" +
         setting("gate") + ") can bound that.";
}

}  // namespace

analysis::Gate VerdictBuilder::gate_for(const analysis::GateContext& context) const {
  return spec_ ? spec_->resolve(context) : analysis::default_gate(context);
}

VerdictBuilder::Group& VerdictBuilder::group_of(const analysis::GateContext& context) {
  for (Group& group : groups_) {
    if (same_group(group.context, context)) return group;
  }
  groups_.emplace_back();
  groups_.back().context = context;
  groups_.back().run = analysis::RunSummaryBuilder(context.routed_layers);
  return groups_.back();
}

void VerdictBuilder::add(const analysis::GateContext& context, const InputResult& input) {
  Group& group = group_of(context);
  const Replay& replay = input.replay.value();
  for (const ModeReplay& mode : replay.modes) {
    group.run.add(input.name(), input.prompt_length, mode.mode, mode.comparison,
                  /*with_prefill=*/&mode == &replay.modes.front());
  }
  group.different_weights = group.different_weights || replay.different_weights;
  group.different_config = group.different_config || replay.different_config;
  group.parallel = group.parallel || replay.parallel;
  add_numerics(replay.numerics, group.numerics);
  group.provenance.add(replay.provenance);
}

std::vector<Verdict> VerdictBuilder::build() const {
  std::vector<Verdict> verdicts;
  for (const Group& group : groups_) {
    const analysis::Gate gate = gate_for(group.context);
    Verdict verdict;
    verdict.model_slug = group.context.model_slug;
    verdict.model_id = group.context.model;
    verdict.dtype = group.context.dtype;
    verdict.reference_device = group.context.reference_device;
    verdict.device = group.context.device;
    verdict.reference_cache = group.context.reference_cache;
    verdict.cache = group.context.cache;
    verdict.different_weights = group.different_weights;
    verdict.different_config = group.different_config;
    verdict.parallel = group.parallel;
    verdict.run = group.run.build();
    verdict.figures = analysis::figures_of(verdict.run);
    verdict.gate = analysis::evaluate(gate, verdict.figures);
    verdict.gate_description = gate.description;
    verdict.flip_bounds = gate.flip_bounds;
    verdict.measures_noise = group.context.measures_noise;
    verdict.gate_chosen = spec_.has_value();
    verdict.finding = analysis::find_cause(verdict.run, verdict.gate);
    verdict.finding_text = analysis::describe(verdict.finding, verdict.run) +
                           analysis::describe_routed(verdict.run, group.context.routed_layers) +
                           describe_other_cache(verdict);
    verdict.provenance = group.provenance.build();
    verdict.numerics = group.numerics;
    verdicts.push_back(std::move(verdict));
  }
  return verdicts;
}

}  // namespace kvtool::run
