#include "gate_profiles.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "kvtool/base/error.h"

namespace kvtool::analysis {
namespace {

constexpr double kTieBudget = 0.02;
// Noise makes as many flips, or hard ones of a mixture of experts, once in a million runs.
constexpr double kLeastTail = 1e-6;

constexpr double kMostRerouted = 0.05;

constexpr const char* kHardFlips = "*.tokens.hard_flips";
constexpr const char* kHardFlipTail = "*.tokens.hard_flips_p";
constexpr const char* kFlipTail = "inject.tokens.flips_p";
constexpr const char* kAnyTieRate = "*.tokens.tie_rate";

constexpr std::array<std::string_view, 4> kNames = {"same-device", "fp32-cross", "16bit-cross",
                                                    "fp8"};

GateRule at_most(std::string figure, double max) {
  return {.figure = std::move(figure), .min = std::nullopt, .max = max};
}

GateRule at_least(std::string figure, double min) {
  return {.figure = std::move(figure), .min = min, .max = std::nullopt};
}

GateRule dropped(std::string figure) {
  return {.figure = std::move(figure), .min = std::nullopt, .max = std::nullopt};
}

// A rule of the prefill and of inject by name demands that they ran; the pattern
// holds what else ran to the same.
std::vector<GateRule> everywhere(const std::vector<GateRule>& suffixes) {
  std::vector<GateRule> rules;
  for (const char* stretch : {"prefill", "inject", "*"}) {
    for (const GateRule& suffix : suffixes) {
      rules.push_back({std::string(stretch) + suffix.figure, suffix.min, suffix.max});
    }
  }
  return rules;
}

std::vector<GateRule> same_device() {
  return everywhere({
      at_least(".tokens.match_rate", 1.0),
      at_most(".tokens.uncompared", 0.0),
      at_least(".logits.bitwise_rate", 1.0),
      at_most(".kv.key.differing_rate", 0.0),
      at_most(".kv.value.differing_rate", 0.0),
  });
}

// Bounds of one stretch.
struct StretchBounds {
  double kl_p99 = 0.0;
  double relative_noise = 0.0;   // of the logits
  double key_relative_l2 = 0.0;  // of the worst layer
  double value_relative_l2 = 0.0;
  double row_relative_l2 = 0.0;
  double layer_scale_error = 0.0;
  double head_scale_error = 0.0;
};

void add_stretch(const std::string& stretch, const StretchBounds& bounds, bool measures_noise,
                 std::vector<GateRule>& rules) {
  if (measures_noise) {
    rules.push_back(at_most(stretch + ".kl_estimate.p99", bounds.kl_p99));
    rules.push_back(at_most(stretch + ".logits.relative_noise", bounds.relative_noise));
  } else {
    rules.push_back(at_most(stretch + ".kl.p99", bounds.kl_p99));
  }
  rules.push_back(at_most(stretch + ".kv.key.layer_max.relative_l2", bounds.key_relative_l2));
  rules.push_back(at_most(stretch + ".kv.value.layer_max.relative_l2", bounds.value_relative_l2));
  for (const char* kind : {".kv.key", ".kv.value"}) {
    const std::string kv = stretch + kind;
    rules.push_back(at_most(kv + ".row_max.relative_l2", bounds.row_relative_l2));
    rules.push_back(at_most(kv + ".layer_max.scale_error", bounds.layer_scale_error));
    rules.push_back(at_most(kv + ".head_max.scale_error", bounds.head_scale_error));
  }
}

// `own` is for what runs on the device's own cache, forced and free: the pattern
// leaves out the prefill and inject, which have rules of their own names.
std::vector<GateRule> cross(const StretchBounds& inject, const StretchBounds& prefill,
                            const StretchBounds& own, bool measures_noise) {
  std::vector<GateRule> rules;
  add_stretch("inject", inject, measures_noise, rules);
  add_stretch("prefill", prefill, measures_noise, rules);
  add_stretch("*", own, measures_noise, rules);
  return rules;
}

std::vector<GateRule> fp32_cross(bool measures_noise) {
  constexpr StretchBounds kBounds = {.kl_p99 = 1e-8,
                                     .relative_noise = 1e-4,
                                     .key_relative_l2 = 2e-5,
                                     .value_relative_l2 = 2e-5,
                                     .row_relative_l2 = 1e-4,
                                     .layer_scale_error = 1e-5,
                                     .head_scale_error = 2e-5};
  return cross(kBounds, kBounds,
               {.kl_p99 = 1e-7,
                .relative_noise = 2e-4,
                .key_relative_l2 = 5e-5,
                .value_relative_l2 = 5e-5,
                .row_relative_l2 = 2e-4,
                .layer_scale_error = 2e-5,
                .head_scale_error = 5e-5},
               measures_noise);
}

std::vector<GateRule> sixteen_bit_cross(bool measures_noise) {
  return cross({.kl_p99 = 0.1,
                .relative_noise = 0.1,
                .key_relative_l2 = 0.04,
                .value_relative_l2 = 0.08,
                .row_relative_l2 = 0.3,
                .layer_scale_error = 6e-3,
                .head_scale_error = 8e-3},
               {.kl_p99 = 0.1,
                .relative_noise = 0.1,
                .key_relative_l2 = 0.06,
                .value_relative_l2 = 0.15,
                .row_relative_l2 = 0.5,
                .layer_scale_error = 0.02,
                .head_scale_error = 0.03},
               {.kl_p99 = 0.3,
                .relative_noise = 0.2,
                .key_relative_l2 = 0.08,
                .value_relative_l2 = 0.15,
                .row_relative_l2 = 0.5,
                .layer_scale_error = 0.04,
                .head_scale_error = 0.05},
               measures_noise);
}

std::vector<GateRule> fp8(bool measures_noise) {
  std::vector<GateRule> rules = cross({.kl_p99 = 0.5,
                                       .relative_noise = 0.2,
                                       .key_relative_l2 = 0.08,
                                       .value_relative_l2 = 0.25,
                                       .row_relative_l2 = 0.8,
                                       .layer_scale_error = 0.03,
                                       .head_scale_error = 0.05},
                                      {.kl_p99 = 0.8,
                                       .relative_noise = 0.5,
                                       .key_relative_l2 = 0.12,
                                       .value_relative_l2 = 0.35,
                                       .row_relative_l2 = 0.9,
                                       .layer_scale_error = 0.05,
                                       .head_scale_error = 0.08},
                                      {.kl_p99 = 1.0,
                                       .relative_noise = 0.5,
                                       .key_relative_l2 = 0.15,
                                       .value_relative_l2 = 0.35,
                                       .row_relative_l2 = 0.9,
                                       .layer_scale_error = 0.15,
                                       .head_scale_error = 0.2},
                                      measures_noise);
  // Other weights may prefer another token clearly: how often is what counts, as often as their
  // noise explains (the inherited rule) where it was measured.
  for (const char* figure : {kHardFlips, kHardFlipTail, kAnyTieRate}) {
    rules.push_back(dropped(figure));
  }
  if (!measures_noise) rules.push_back(at_least("inject.tokens.match_rate", 0.9));
  return rules;
}

// A router chooses other experts for a token as noise chooses another token, and what it then
// computes is far off: its hard flips are judged as flips are.
GateRule hard_flip_rule(const GateContext& context) {
  const bool judged_by_tail = context.measures_noise && context.is_routed();
  return judged_by_tail ? at_least(kHardFlipTail, kLeastTail) : at_most(kHardFlips, 0.0);
}

// Rows that a router explains are no fault, and a layer's figure without them is its median row's.
// How many there may be has a bound of its own.
std::vector<GateRule> for_routed(std::vector<GateRule> rules) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 2> kReplaced = {{
      {".row_max.relative_l2", ".unrouted_row_max.relative_l2"},
      {".layer_max.relative_l2", ".layer_max.median_row_l2"},
  }};
  bool judges_rows = false;
  for (GateRule& rule : rules) {
    for (const auto& [usual, routed] : kReplaced) {
      if (!rule.figure.ends_with(usual)) continue;
      rule.figure.replace(rule.figure.size() - usual.size(), usual.size(), routed);
      judges_rows = true;
    }
  }
  if (judges_rows) rules.push_back(at_most("*.kv.rerouted_rate", kMostRerouted));
  return rules;
}

}  // namespace

bool drops(const GateRule& rule) { return !rule.min && !rule.max; }

std::vector<GateRule> inherited_rules(const GateContext& context) {
  std::vector<GateRule> rules = default_gate(context).rules;
  if (context.measures_noise) {
    // On own cache or tokens one flip makes others: the sum of independent ones says nothing.
    rules.push_back(at_least(kFlipTail, kLeastTail));
    rules.back().only_if_ran = true;
  } else {
    rules.push_back(at_most(kAnyTieRate, kTieBudget));
  }
  return rules;
}

std::vector<GateRule> GateProfile::rules_for(const GateContext& context) const {
  if (!context.measures_noise) return rules_by_ulp;
  return context.is_routed() ? for_routed(rules) : rules;
}

const std::vector<GateProfile>& gate_profiles() {
  static const std::vector<GateProfile> profiles = {
      {kNames[0], "Same device, software and batch shape: every bit is the same.", same_device(),
       same_device()},
      {kNames[1], "float32 on another device or with other kernels.", fp32_cross(true),
       fp32_cross(false)},
      {kNames[2], "bfloat16 or float16 on another device or with other kernels.",
       sixteen_bit_cross(true), sixteen_bit_cross(false)},
      {kNames[3], "FP8 weights or an FP8 KV cache against 16 bits.", fp8(true), fp8(false)},
  };
  return profiles;
}

const GateProfile* find_gate_profile(std::string_view name) {
  for (const GateProfile& profile : gate_profiles()) {
    if (profile.name == name) return &profile;
  }
  return nullptr;
}

void put_rules(const std::vector<GateRule>& rules, std::vector<GateRule>& target) {
  for (const GateRule& rule : rules) {
    const auto place = std::find_if(target.begin(), target.end(), [&](const GateRule& each) {
      return each.figure == rule.figure;
    });
    if (drops(rule)) {
      if (place != target.end()) target.erase(place);
    } else if (place != target.end()) {
      *place = rule;
    } else {
      target.push_back(rule);
    }
  }
}

std::vector<GateRule> demanding(format::ReplayMode mode, const std::vector<GateRule>& rules) {
  if (mode == format::ReplayMode::kInject) return rules;
  constexpr std::string_view kInject = "inject.";
  std::vector<GateRule> result;
  for (const GateRule& rule : rules) {
    // What drops an inherited rule does so in every mode.
    if (!rule.figure.starts_with(kInject) || drops(rule)) {
      result.push_back(rule);
      continue;
    }
    const std::string name = rule.figure.substr(kInject.size());
    const auto pattern = std::find_if(rules.begin(), rules.end(), [&](const GateRule& other) {
      return other.figure == "*." + name;
    });
    if (pattern == rules.end()) continue;
    result.push_back(
        {std::string(replay_mode_name(mode)) + "." + name, pattern->min, pattern->max});
  }
  return result;
}

std::span<const std::string_view> builtin_gate_names() { return kNames; }

bool GateContext::is_routed() const {
  return std::find(routed_layers.begin(), routed_layers.end(), true) != routed_layers.end();
}

Gate default_gate(const GateContext& context) {
  return {.name = "default",
          .description = "No hard flip, no NaN and no Inf; applied when no gate is named.",
          .flip_bounds = {},
          .rules = {hard_flip_rule(context), at_most("*.tokens.nonfinite", 0.0),
                    at_most("*.kv.*.nonfinite", 0.0)}};
}

}  // namespace kvtool::analysis
