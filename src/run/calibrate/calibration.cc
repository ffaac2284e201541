#include "kvtool/run/calibration.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/engine/cpu_isa.h"

namespace kvtool::run {
namespace {

using nlohmann::json;

bool has_flag(std::string_view cpuinfo, std::string_view flag) {
  std::istringstream lines{std::string(cpuinfo)};
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line);
    for (std::string word; words >> word;) {
      if (word == flag) return true;
    }
    return false;  // all cores have the same
  }
  return false;
}

enum class Ideal { kZero, kOne };

// A figure that a calibrated gate limits: from above where 0 is ideal, from
// below where 1 is.
struct CalibratedFigure {
  const char* name;  // after the stretch
  Ideal ideal = Ideal::kZero;
  // The least distance from the ideal that is allowed.
  double least = 0.0;
  // Which recordings it is for: those that show noise, the others, or both.
  enum class For { kAll, kNoise, kUlp } recordings = For::kAll;
};
using For = CalibratedFigure::For;

// K/V and KL: only so much that a figure which was exactly 0 is not failed by
// the last digit of a sum.
constexpr double kLeastKl = 1e-9;
constexpr double kLeastKv = 1e-8;
// What every gate allows (docs/gates.md).
constexpr double kLeastTieRate = 0.02;
constexpr double kLeastRelativeNoise = 1e-9;

constexpr std::array kFigures = {
    CalibratedFigure{"tokens.tie_rate", Ideal::kZero, kLeastTieRate, For::kUlp},
    CalibratedFigure{"logits.relative_noise", Ideal::kZero, kLeastRelativeNoise, For::kNoise},
    CalibratedFigure{"logits.top5_agreement", Ideal::kOne, kLeastTieRate},
    CalibratedFigure{"kl.median", Ideal::kZero, kLeastKl, For::kUlp},
    CalibratedFigure{"kl.p99", Ideal::kZero, kLeastKl, For::kUlp},
    CalibratedFigure{"kl.max", Ideal::kZero, kLeastKl, For::kUlp},
    CalibratedFigure{"kl_estimate.median", Ideal::kZero, kLeastKl, For::kNoise},
    CalibratedFigure{"kl_estimate.p99", Ideal::kZero, kLeastKl, For::kNoise},
    CalibratedFigure{"kl_estimate.max", Ideal::kZero, kLeastKl, For::kNoise},
    CalibratedFigure{"kv.key.layer_max.relative_l2", Ideal::kZero, kLeastKv},
    CalibratedFigure{"kv.key.layer_max.scale_error", Ideal::kZero, kLeastKv},
    CalibratedFigure{"kv.key.head_max.scale_error", Ideal::kZero, kLeastKv},
    CalibratedFigure{"kv.key.unrouted_row_max.relative_l2", Ideal::kZero, kLeastKv},
    CalibratedFigure{"kv.value.layer_max.relative_l2", Ideal::kZero, kLeastKv},
    CalibratedFigure{"kv.value.layer_max.scale_error", Ideal::kZero, kLeastKv},
    CalibratedFigure{"kv.value.head_max.scale_error", Ideal::kZero, kLeastKv},
    CalibratedFigure{"kv.value.unrouted_row_max.relative_l2", Ideal::kZero, kLeastKv},
};
constexpr std::array kStretches = {"prefill", "inject", "forced"};
// Where forced moves nothing, inject does not either: 0 is as good as it gets.
constexpr CalibratedFigure kAmplification{"amplification", Ideal::kZero, 2.0};

// Away from 0, to three digits, so that a person can read the bound.
double rounded_up(double value) {
  if (value <= 0.0) return 0.0;
  const double unit = std::pow(10.0, std::floor(std::log10(value)) - 2.0);
  double digits = std::ceil(value / unit * (1.0 - 1e-12));
  for (;; digits += 1.0) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.2e", digits * unit);
    const double rounded = std::strtod(text.data(), nullptr);
    if (rounded >= value) return rounded;
  }
}

struct Worst {
  double value = 0.0;
  const CalibrationRun* run = nullptr;
};

double distance(const CalibratedFigure& figure, double value) {
  return figure.ideal == Ideal::kZero ? value : 1.0 - value;
}

// Nothing when a run did not measure the figure.
std::optional<Worst> worst_of(const std::vector<CalibrationOutcome>& outcomes,
                              const std::string& name, const CalibratedFigure& figure) {
  std::optional<Worst> worst;
  for (const CalibrationOutcome& outcome : outcomes) {
    const auto measured = outcome.run.figures.find(name);
    if (measured == outcome.run.figures.end()) return std::nullopt;
    if (!worst || distance(figure, measured->second) > distance(figure, worst->value)) {
      worst = Worst{measured->second, &outcome.run};
    }
  }
  return worst;
}

// One tie of four tokens is no rate of 25 %: every budget has room for one.
bool is_single_tie(const std::string& name, const Worst& worst) {
  constexpr std::string_view kRate = "tie_rate";
  if (!name.ends_with(kRate)) return false;
  const std::string stretch = name.substr(0, name.size() - kRate.size());
  const auto compared = worst.run->figures.find(stretch + "compared");
  return compared != worst.run->figures.end() && worst.value * compared->second < 1.5;
}

CalibratedRule rule_for(const std::string& name, const CalibratedFigure& figure, const Worst& worst,
                        double safety) {
  const double noise = is_single_tie(name, worst) ? 0.0 : distance(figure, worst.value);
  const double allowed = rounded_up(std::max(noise * safety, figure.least));
  CalibratedRule rule;
  rule.rule.figure = name;
  rule.noise = worst.value;
  rule.run = worst.run->name;
  if (figure.ideal == Ideal::kZero) {
    rule.rule.max = allowed;
  } else {
    // 1 - 0.02 is a little less than 0.98 in binary: six digits are enough.
    rule.rule.min = std::max(0.0, std::floor((1.0 - allowed) * 1e6) / 1e6);
  }
  return rule;
}

// Tokens that no near-tie bound can explain.
void check_no_fault(const CalibrationOutcome& outcome) {
  for (const auto& [name, value] : outcome.run.figures) {
    const bool flips = name.ends_with(".tokens.hard_flips");
    if ((!flips && !name.ends_with(".nonfinite")) || value == 0.0) continue;
    throw_environment("cannot calibrate: the replay \"" + outcome.run.name + "\" has " + name +
                      " " + json(value).dump() + ", and " +
                      (flips ? "tokens outside the recorded top-k" : "NaN and Inf") +
                      " are no rounding noise. Replay with " + setting("mode") +
                      " inject,forced to see them");
  }
}

bool all_zero(const std::vector<CalibratedRule>& rules) {
  return std::all_of(rules.begin(), rules.end(),
                     [](const CalibratedRule& rule) { return rule.rule.min || rule.noise == 0.0; });
}

// A gate without bounds of steps would pass whatever a step computes.
void check_has_steps(const CalibrationOutcome& outcome) {
  const auto compared = outcome.run.figures.find("inject.tokens.compared");
  if (compared == outcome.run.figures.end() || compared->second > 0.0) return;
  throw_usage(
      "cannot calibrate: every generation ends with its first token, so that there is no step to "
      "measure: use other prompts, a larger " +
      setting("max_new_tokens") + ", or recordings with steps");
}

bool holds_no_step_kv(const CalibrationOutcome& outcome) {
  const auto rows = outcome.run.figures.find("inject.kv.recorded_rows");
  return rows != outcome.run.figures.end() && rows->second == 0.0;
}

// The default bounds, or as wide as the largest gaps.
analysis::FlipBounds flip_bounds(const std::vector<CalibrationOutcome>& outcomes) {
  analysis::FlipBounds bounds;
  for (const CalibrationOutcome& outcome : outcomes) {
    bounds.near_tie_ulps = std::max(bounds.near_tie_ulps, outcome.largest_gap_ulps);
    bounds.noise_z = std::max(bounds.noise_z, outcome.largest_gap_noise);
  }
  return {.near_tie_ulps = std::ceil(bounds.near_tie_ulps), .noise_z = std::ceil(bounds.noise_z)};
}

// Of a token that flipped over more than the default bound.
std::string wide_bound_note(const CalibratedGate& gate) {
  const analysis::FlipBounds usual;
  if (gate.measures_noise) {
    if (gate.flip_bounds.noise_z <= usual.noise_z) return {};
    return "mismatches reach " + json(gate.flip_bounds.noise_z).dump() +
           " standard deviations of the noise: a token flipped over that gap";
  }
  if (gate.flip_bounds.near_tie_ulps <= usual.near_tie_ulps) return {};
  return "near-ties reach " + json(gate.flip_bounds.near_tie_ulps).dump() +
         " ulp: a token flipped over that gap";
}

}  // namespace

bool CalibrationOutcome::measures_noise() const {
  return run.figures.contains("inject.logits.noise");
}

std::string CalibrationVariant::name() const {
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  if (cpu_isa != "auto") add(cpu_isa);
  if (threads > 0) add(std::to_string(threads) + (threads == 1 ? " thread" : " threads"));
  if (single_inputs) add("one input at a time");
  if (text.empty()) add("as recorded");
  if (repeat > 1) add("repeat " + std::to_string(repeat));
  return text;
}

std::vector<std::string> weaker_instruction_sets(std::string_view cpuinfo,
                                                 std::string_view cpu_isa) {
  std::vector<std::string> weaker;
  // The strongest that the CPU has, or that --cpu-isa allows, is what runs anyway.
  bool below = false;
  for (auto isa = engine::kCpuIsas.rbegin(); isa != engine::kCpuIsas.rend(); ++isa) {
    if (!has_flag(cpuinfo, isa->cpu_flag)) continue;
    if (below) weaker.emplace_back(isa->name);
    below = below || cpu_isa == engine::kAnyCpuIsa || cpu_isa == isa->name;
  }
  // Without vector instructions a model takes minutes; one limit of the others says enough.
  if (weaker.size() > 1 && weaker.back() == engine::kCpuIsas.front().name) weaker.pop_back();
  return weaker;
}

std::vector<CalibrationVariant> plan_calibration(const CalibrationMachine& machine, int count) {
  std::vector<CalibrationVariant> variants(1);
  std::vector<std::string> isas = {"auto"};
  if (machine.cpu) isas.insert(isas.end(), machine.isa_limits.rbegin(), machine.isa_limits.rend());
  std::vector<int> threads = {0};
  if (machine.cpu && machine.threads != 1) threads.push_back(1);
  if (machine.cpu && machine.threads > 3) threads.push_back(machine.threads / 2);
  const std::vector<bool> shapes = machine.batched ? std::vector{false, true} : std::vector{false};
  // One setting at a time first, then all combinations.
  for (std::size_t i = 1; i < isas.size(); ++i) variants.push_back({.cpu_isa = isas[i]});
  for (std::size_t i = 1; i < threads.size(); ++i) variants.push_back({.threads = threads[i]});
  if (machine.batched) variants.push_back({.single_inputs = true});
  for (const bool single : shapes) {
    for (const int thread : threads) {
      for (const std::string& isa : isas) {
        if ((isa != "auto") + (thread != 0) + static_cast<int>(single) < 2) continue;
        variants.push_back({.cpu_isa = isa, .threads = thread, .single_inputs = single});
      }
    }
  }
  const std::size_t wanted = static_cast<std::size_t>(count);
  const std::size_t distinct = variants.size();
  for (std::size_t i = 0; variants.size() < wanted; ++i) {
    CalibrationVariant again = variants[i % distinct];
    again.repeat = 2 + static_cast<int>(i / distinct);
    variants.push_back(again);
  }
  variants.resize(wanted);
  return variants;
}

std::vector<std::string> calibration_notes(const CalibrationMachine& machine) {
  std::vector<std::string> notes;
  if (!machine.cpu) {
    notes.emplace_back("instruction set and threads are not varied: the model runs on a GPU");
  } else {
    if (machine.isa_limits.empty()) {
      notes.emplace_back(
          "the instruction set is not varied: this CPU has no weaker one to limit "
          "torch to");
    }
    if (machine.threads == 1) {
      notes.emplace_back("threads are not varied: the replay as recorded uses one");
    }
  }
  if (!machine.batched) {
    notes.emplace_back("the batch is not varied: every input was recorded alone; record with " +
                       setting("batch_size") + " 4 to calibrate for other batch shapes");
  }
  return notes;
}

CalibratedGate calibrate_gate(const std::vector<CalibrationOutcome>& outcomes, double safety) {
  for (const CalibrationOutcome& outcome : outcomes) {
    check_has_steps(outcome);
    check_no_fault(outcome);
  }
  CalibratedGate gate;
  gate.flip_bounds = flip_bounds(outcomes);
  gate.measures_noise = std::ranges::all_of(outcomes, &CalibrationOutcome::measures_noise);
  const auto add = [&](const std::string& name, const CalibratedFigure& figure) {
    const std::optional<Worst> worst = worst_of(outcomes, name, figure);
    if (!worst) return;
    if (std::isfinite(worst->value)) {
      gate.rules.push_back(rule_for(name, figure, *worst, safety));
    } else {
      gate.notes.push_back(name + " has no bound: it is not finite in \"" + worst->run->name +
                           "\"");
    }
  };
  for (const char* stretch : kStretches) {
    for (const CalibratedFigure& figure : kFigures) {
      if (figure.recordings == (gate.measures_noise ? For::kUlp : For::kNoise)) continue;
      add(std::string(stretch) + "." + figure.name, figure);
    }
  }
  add(std::string("forced.") + kAmplification.name, kAmplification);
  if (std::ranges::any_of(outcomes, holds_no_step_kv)) {
    gate.notes.emplace_back(
        "K/V of steps has no bound: the recordings hold none (they are prefill_only)");
  }
  if (all_zero(gate.rules)) {
    gate.notes.emplace_back(
        "no variation changed a single bit: this gate demands nearly bitwise equality, which "
        "another device will hardly keep");
  }
  if (std::string note = wide_bound_note(gate); !note.empty()) {
    gate.notes.push_back(std::move(note));
  }
  return gate;
}

json gate_document(const std::string& name, const std::string& description,
                   const CalibratedGate& gate, json evidence) {
  json rules = json::object();
  for (const CalibratedRule& each : gate.rules) {
    json& bounds = rules[each.rule.figure];
    if (each.rule.min) bounds["min"] = *each.rule.min;
    if (each.rule.max) bounds["max"] = *each.rule.max;
  }
  const bool by_noise = gate.measures_noise;
  return {{"name", name},
          {"description", description},
          {by_noise ? "noise_z" : "near_tie_ulps",
           by_noise ? gate.flip_bounds.noise_z : gate.flip_bounds.near_tie_ulps},
          {"rules", std::move(rules)},
          {"evidence", std::move(evidence)}};
}

}  // namespace kvtool::run
