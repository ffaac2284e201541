#include "trial.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "run/replay_cache.h"
#include "run/replay_modes.h"

namespace kvtool::run {
namespace {

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

void take(const Verdict& verdict, Judgement& judgement) {
  judgement.gate = verdict.gate.gate;
  judgement.measures_noise = judgement.measures_noise && verdict.measures_noise;
  if (std::ranges::find(judgement.caches, verdict.cache) == judgement.caches.end()) {
    judgement.caches.push_back(verdict.cache);
  }
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

// Mismatches that are no hard flips.
void take_largest_gaps(const analysis::RowComparison& row, double noise_z, Judgement& judgement) {
  for (const analysis::TokenComparison& token : row.tokens) {
    if (token.verdict == analysis::TokenVerdict::kMatch) continue;
    if (token.verdict == analysis::TokenVerdict::kHardFlip) continue;
    judgement.largest_gap_ulps =
        std::max(judgement.largest_gap_ulps, token.judged_gap() / token.ulp);
    if (token.verdict != analysis::TokenVerdict::kNoise) continue;
    judgement.largest_gap_noise =
        std::max(judgement.largest_gap_noise, token.gap_in_noise(noise_z));
  }
}

InputKl kl_of(const ModeReplay& mode) {
  InputKl kl{.mode = mode.mode};
  for (const analysis::TokenComparison& token : mode.comparison.tokens) {
    if (token.index == 0) continue;
    const double estimate = token.kl_estimate.value;
    kl.steps.push_back(std::isnan(estimate) ? token.kl : estimate);
  }
  return kl;
}

InputResult input_of(const engine::ModelInfo& model, const Trial& trial, ReplayedRow& row) {
  InputResult input;
  input.model_slug = model.slug;
  input.batch_size = row.entry->batch_size;
  input.input_index = row.entry->input_index;
  input.prompt_length = row.entry->prompt_length;
  Replay& replay = input.replay.emplace();
  replay.parallel = trial.parallel;
  replay.modes = std::move(row.modes);
  return input;
}

}  // namespace

TrialRunner::TrialRunner(engine::Model& model, std::span<const ReferenceSet> references,
                         std::optional<analysis::GateSpec> gate, std::string device_label,
                         Observer& observer)
    : model_(model),
      references_(references),
      gate_(std::move(gate)),
      device_label_(std::move(device_label)),
      observer_(observer),
      block_positions_(1) {
  for (const ReferenceSet& reference : references) {
    block_positions_ = std::max(block_positions_, block_positions_for(reference.entries));
  }
}

analysis::GateContext TrialRunner::context_of(const Trial& trial,
                                              const ReferenceEntry& entry) const {
  return replay_context(model_.info(), device_label_, trial.kv_cache, entry);
}

Judgement TrialRunner::run(const Trial& trial, const engine::Progress& progress) const {
  VerdictBuilder verdicts(gate_);
  BatchReplayOptions options;
  const ReferenceEntry& first = references_.front().entries.front();
  options.modes =
      replay_modes(trial.modes, verdicts.gate_for(context_of(trial, first)), trial.parallel);
  options.parallel = trial.parallel;
  options.parallel_memory_bytes = trial.parallel_memory_bytes;
  options.kv_cache = trial.kv_cache;
  options.fault = trial.fault;
  options.refuse_idle = trial.refuse_idle;
  options.measure_attention = trial.measure_attention;
  options.flip_bounds = [&](const ReferenceEntry& entry) {
    return verdicts.gate_for(context_of(trial, entry)).flip_bounds;
  };
  options.block_positions = block_positions_;
  Judgement judgement;
  for (const auto& [entries, batches] : references_) {
    for (const PlannedBatch& batch : batches) {
      BatchReplayResult replayed = replay_batch(
          model_, entries, batch, options, {}, [&](format::ReplayMode) { return progress; },
          observer_);
      judgement.batches.push_back({.rows = batch.rows.size(),
                                   .padded_length = batch.padded_length,
                                   .cache_capacity = batch.cache_capacity,
                                   .kv_cache = replayed.kv_cache,
                                   .runs = std::move(replayed.runs)});
      take_rows(trial, std::move(replayed.rows), verdicts, judgement);
    }
  }
  const std::vector<Verdict> judged = verdicts.build();
  judgement.groups = judged.size();
  for (const Verdict& verdict : judged) take(verdict, judgement);
  return judgement;
}

void TrialRunner::take_rows(const Trial& trial, std::vector<ReplayedRow> rows,
                            VerdictBuilder& verdicts, Judgement& judgement) const {
  for (ReplayedRow& row : rows) {
    ++judgement.inputs;
    judgement.most_rows = std::max<std::uint64_t>(judgement.most_rows, row.rows);
    const analysis::GateContext context = context_of(trial, *row.entry);
    const double noise_z = verdicts.gate_for(context).flip_bounds.noise_z;
    for (const ModeReplay& mode : row.modes) {
      judgement.steps += mode.timing.steps;
      take_largest_gaps(mode.comparison, noise_z, judgement);
      judgement.kl.push_back(kl_of(mode));
      const std::vector<std::int32_t>& tokens = mode.comparison.live_tokens;
      std::vector<std::int32_t>& all = judgement.tokens[mode.mode];
      all.insert(all.end(), tokens.begin(), tokens.end());
    }
    verdicts.add(context, input_of(model_.info(), trial, row));
  }
}

}  // namespace kvtool::run
