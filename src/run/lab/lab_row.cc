#include "lab_row.h"

#include <algorithm>
#include <cmath>

#include "kvtool/analysis/statistics.h"
#include "kvtool/cache/cache_plan.h"
#include "kvtool/cache/key_budget.h"
#include "lab_ghost.h"

namespace kvtool::run {
namespace {

constexpr double kTwoSided = 0.975;
constexpr double kMilliseconds = 1e3;

// Figures of one stretch by the rest of their names.
class Stretch {
 public:
  Stretch(const analysis::Figures& figures, format::ReplayMode mode)
      : figures_(figures), prefix_(std::string(format::replay_mode_name(mode)) + ".") {}

  [[nodiscard]] std::optional<double> number(const std::string& name) const {
    const auto found = figures_.find(prefix_ + name);
    return found == figures_.end() ? std::nullopt : std::optional(found->second);
  }
  [[nodiscard]] std::uint64_t count(const std::string& name) const {
    return static_cast<std::uint64_t>(number("tokens." + name).value_or(0.0));
  }

 private:
  const analysis::Figures& figures_;
  std::string prefix_;
};

void take_kl(const Stretch& stretch, LabQuality& quality) {
  quality.kl_is_estimate = stretch.number("kl_estimate.mean").has_value();
  const std::string kl = quality.kl_is_estimate ? "kl_estimate." : "kl.";
  quality.kl_mean = stretch.number(kl + "mean");
  quality.kl_median = stretch.number(kl + "median");
  quality.kl_p99 = stretch.number(kl + "p99");
  if (quality.kl_is_estimate) quality.kl_error = stretch.number(kl + "standard_error");
}

const ModeRun* run_of(const TrialBatch& batch, format::ReplayMode mode) {
  const auto found = std::ranges::find(batch.runs, mode, &ModeRun::mode);
  return found == batch.runs.end() ? nullptr : &*found;
}

void add(const cache::CacheUse& use, std::uint64_t position_bytes, LabRow& row) {
  LabBytes& bytes = row.bytes;
  bytes.logical_bytes += use.logical_bytes;
  bytes.positions += position_bytes == 0 ? 0 : use.logical_bytes / position_bytes;
  bytes.kept_bytes += use.physical_bytes;
  bytes.peak_bytes += use.peak_bytes;
  bytes.moved_bytes += use.moved_bytes;
  bytes.emulated_link = bytes.emulated_link || use.emulated_link;
  LabApplied& applied = row.applied;
  applied.applied_rows += use.applied_rows;
  applied.visible_keys += use.visible_keys;
  applied.seen_keys += use.seen_keys;
  applied.paged_out += use.paged_out;
  applied.read_back += use.read_back;
}

// Bytes of all layers that a step reads for one key, and those it reads besides for every key in
// order to choose.
struct KeyBytes {
  double rows = 0.0;
  double summaries = 0.0;
};

KeyBytes key_bytes(const TrialBatch& batch, const format::Geometry& geometry) {
  const cache::BatchExtent extent{
      .rows = batch.rows, .positions = batch.cache_capacity, .prompt = batch.padded_length};
  // Of pages one copy, wherever they are.
  const bool has_places = batch.kv_cache.has("device");
  const cache::CachePlan plan = cache::plan_cache(
      geometry, extent, has_places ? all_resident(batch.kv_cache) : batch.kv_cache);
  const std::uint64_t summaries = cache::page_summary_bytes(geometry, extent, batch.kv_cache);
  const auto positions = static_cast<double>(batch.rows * batch.cache_capacity);
  if (positions == 0.0) return {};
  return {static_cast<double>(plan.kept_bytes - std::min(summaries, plan.kept_bytes)) / positions,
          static_cast<double>(summaries) / positions};
}

// Of the layers' keys, those that a step sees: all in layers where the policy does not choose.
double seen_of_all(const cache::CacheSpec& spec, std::uint64_t layers, const LabApplied& applied) {
  const double seen = applied.seen_share().value_or(1.0);
  const cache::KeyBudget budget(spec);
  double sum = 0.0;
  for (std::uint64_t layer = 0; layer < layers; ++layer) sum += budget.selects(layer) ? seen : 1.0;
  return layers == 0 ? 1.0 : sum / static_cast<double>(layers);
}

// Why the policy is known to have done nothing; empty where it acted, and of one that keeps rows as
// they are, shows all and moves none, which has nothing to do.
std::string idle_of(const cache::CacheSpec& spec, const LabRow& row) {
  if (spec == cache::CacheSpec() || row.role == LabRole::kFull) return {};
  const LabApplied& applied = row.applied;
  if (applied.applied_rows > 0 || applied.seen_keys < applied.visible_keys) return {};
  if (row.bytes.moved_bytes > 0 || applied.paged_out > 0) return {};
  if (applied.visible_keys > 0) return "every step saw all keys";
  return "no row was kept otherwise than the model made it, hidden or moved";
}

}  // namespace

LabQuality lab_quality(const analysis::Figures& figures, format::ReplayMode mode) {
  const Stretch stretch(figures, mode);
  LabQuality quality;
  quality.compared = stretch.count("compared");
  quality.matches = stretch.count("matches");
  quality.ties = stretch.count("ties");
  quality.noise_flips = stretch.count("noise_flips");
  quality.near_ties = stretch.count("near_ties");
  quality.hard_flips = stretch.count("hard_flips");
  quality.nonfinite = stretch.count("nonfinite");
  quality.agreement = stretch.number("tokens.match_rate");
  quality.agreement_low =
      analysis::clopper_pearson_lower(quality.matches, quality.compared, kTwoSided);
  if (const auto low =
          analysis::clopper_pearson_lower(quality.flips(), quality.compared, kTwoSided)) {
    quality.agreement_high = 1.0 - *low;
  }
  quality.expected_flips = stretch.number("tokens.flips_expected");
  quality.expected_deviation = stretch.number("tokens.flips_deviation");
  take_kl(stretch, quality);
  quality.same_top = stretch.number("logits.top1_agreement");
  quality.rms_delta_p = stretch.number("logits.rms_delta_p");
  quality.key_l2 = stretch.number("kv.key.relative_l2");
  quality.value_l2 = stretch.number("kv.value.relative_l2");
  const Stretch free(figures, format::ReplayMode::kFree);
  quality.agreed_median = free.number("tokens.agreed_median");
  quality.agreed_min = free.number("tokens.agreed_min");
  return quality;
}

format::ReplayMode lab_mode(std::span<const format::ReplayMode> modes) {
  for (const format::ReplayMode mode : {format::ReplayMode::kForced, format::ReplayMode::kInject}) {
    if (std::ranges::find(modes, mode) != modes.end()) return mode;
  }
  return format::ReplayMode::kFree;
}

LabSteps lab_steps(std::span<const ReferenceSet> references) {
  LabSteps steps;
  for (const ReferenceSet& reference : references) {
    for (const ReferenceEntry& entry : reference.entries) {
      if (!entry.selected) continue;
      ++steps.inputs;
      steps.steps += entry.num_steps;
      for (std::uint64_t step = 0; step < entry.num_steps; ++step) {
        steps.visible_keys += entry.prompt_length + step + 1;
      }
      const std::uint64_t positions = entry.prompt_length + entry.num_steps;
      steps.shortest = steps.inputs == 1 ? positions : std::min(steps.shortest, positions);
      steps.longest = std::max(steps.longest, positions);
    }
  }
  return steps;
}

std::vector<std::uint64_t> lab_lengths(std::span<const ReferenceSet> references) {
  std::vector<std::uint64_t> lengths;
  for (const auto& [entries, batches] : references) {
    for (const PlannedBatch& batch : batches) {
      std::uint64_t longest = 0;
      for (const PlannedRow& row : batch.rows) {
        const ReferenceEntry& entry = entries[row.entry];
        longest = std::max(longest, entry.prompt_length + entry.num_steps);
      }
      lengths.push_back(longest);
    }
  }
  return lengths;
}

void take_batches(std::span<const TrialBatch> batches, format::ReplayMode mode,
                  const format::Geometry& geometry, const LabSteps& steps, LabRow& row) {
  KeyBytes largest;
  for (const TrialBatch& batch : batches) {
    const ModeRun* run = run_of(batch, mode);
    if (run == nullptr) continue;
    add(run->cache_use, geometry.position_bytes(), row);
    if (row.idle.empty()) row.idle = run->idle;
    const KeyBytes bytes = key_bytes(batch, geometry);
    if (bytes.rows + bytes.summaries >= largest.rows + largest.summaries) largest = bytes;
  }
  if (batches.empty()) return;
  const cache::CacheSpec& spec = batches.front().kv_cache;
  if (row.idle.empty()) row.idle = idle_of(spec, row);
  if (steps.steps == 0) return;
  const double keys = static_cast<double>(steps.visible_keys) / static_cast<double>(steps.steps);
  const double seen = seen_of_all(spec, geometry.num_layers(), row.applied);
  row.bytes.read_bytes_per_step = keys * (seen * largest.rows + largest.summaries);
}

void take_attention(std::span<const TrialBatch> batches, LabRow& row) {
  std::vector<engine::AttentionError> layers;
  engine::AttentionError all;
  for (const TrialBatch& batch : batches) {
    for (const ModeRun& run : batch.runs) {
      layers.resize(std::max(layers.size(), run.attention_errors.size()));
      for (std::size_t layer = 0; layer < run.attention_errors.size(); ++layer) {
        const engine::AttentionError& error = run.attention_errors[layer];
        for (engine::AttentionError* sum : {&layers[layer], &all}) {
          sum->difference_squares += error.difference_squares;
          sum->exact_squares += error.exact_squares;
        }
      }
    }
  }
  const auto relative = [](const engine::AttentionError& error) {
    return std::sqrt(error.difference_squares / error.exact_squares);
  };
  for (const engine::AttentionError& layer : layers) {
    row.attention_l2_by_layer.push_back(relative(layer));
  }
  if (!layers.empty()) row.attention_l2 = relative(all);
}

void StepClock::tell(std::uint64_t steps_done, double seconds) {
  if (steps_done == 0) {
    runs_.emplace_back();
  } else if (!runs_.empty()) {
    runs_.back().push_back((seconds - last_) * kMilliseconds);
  }
  last_ = seconds;
}

LabTime lab_time(std::span<const TrialBatch> batches, format::ReplayMode mode,
                 const StepClock& clock, bool step_by_step) {
  LabTime time;
  time.of_steps = step_by_step;
  std::size_t index = 0;
  for (const TrialBatch& batch : batches) {
    for (const ModeRun& run : batch.runs) {
      const std::size_t at = index++;
      if (run.mode != mode || run.decode_steps == 0) continue;
      time.prefill_ms.push_back(run.prefill_seconds * kMilliseconds);
      if (step_by_step && at < clock.runs().size()) {
        const std::vector<double>& steps = clock.runs()[at];
        time.step_ms.insert(time.step_ms.end(), steps.begin(), steps.end());
        for (std::size_t step = 0; step < steps.size(); ++step) {
          time.step_positions.push_back(static_cast<double>(batch.padded_length + step + 1));
        }
      } else {
        time.step_ms.push_back(run.decode_seconds * kMilliseconds /
                               static_cast<double>(run.decode_steps));
        time.step_positions.push_back(static_cast<double>(batch.padded_length) +
                                      0.5 * static_cast<double>(run.decode_steps + 1));
      }
    }
  }
  return time;
}

}  // namespace kvtool::run
