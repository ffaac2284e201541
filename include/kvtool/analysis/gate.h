// Gates: which figures are good enough. A gate is a list of rules, judged over
// the figures of one model's run. docs/gates.md has the file format.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/analysis/summary.h"
#include "kvtool/format/meta.h"

namespace kvtool::analysis {

// Bounds are inclusive; at least one is set.
struct GateRule {
  // Name of a figure, '*' stands for any characters. Every figure that matches
  // must keep the bounds, except those with a rule of their own name: such a
  // rule alone judges its figure.
  std::string figure;
  std::optional<double> min;
  std::optional<double> max;
  // Judges nothing where the stretch that the figure is of did not run, instead of failing for it.
  bool only_if_ran = false;
};

struct Gate {
  std::string name;
  std::string description;
  FlipBounds flip_bounds;
  std::vector<GateRule> rules;
};

// What overrides are chosen by; patterns with '*' and '?', without regard to case.
struct GateContext {
  std::string model;  // id or slug: either may match
  std::string model_slug;
  std::string dtype;             // of the model under test
  std::string reference_device;  // label
  std::string device;            // label
  // The mode that built-in gates demand: inject in a replay; in a diff the one
  // that the recordings come from.
  format::ReplayMode demanded_mode = format::ReplayMode::kInject;
  // Specs of the caches that made the reference's rows and those compared with them.
  std::string reference_cache = format::kUnnamedCache;
  std::string cache = format::kUnnamedCache;
  // Both sides hold what shows the noise of logits (can_show_noise); else the rules of recordings
  // without a sample apply.
  bool measures_noise = false;
  // Layers with a mixture of experts, by number; shorter or empty: the others have none.
  std::vector<bool> routed_layers = {};

  [[nodiscard]] bool is_routed() const;
};

// A gate file or the `gate` object of a configuration, checked, not yet resolved.
class GateSpec {
 public:
  GateSpec() = default;

  // Error kUsage: names `subject` and the key; unknown keys and figures that no
  // run can have are errors with the nearest known name.
  static GateSpec parse(const nlohmann::json& document, const std::string& subject);
  // Error kUsage listing the built-in names.
  static GateSpec builtin(std::string_view name);

  [[nodiscard]] const std::string& name() const { return name_; }

  // The base's rules, then the file's, then those of every matching override in
  // order; a later rule replaces an earlier one of the same name. What holds unless a rule says
  // otherwise is in docs/gates.md, "What every gate holds".
  [[nodiscard]] Gate resolve(const GateContext& context) const;

 private:
  struct Override {
    std::string model, dtype, reference_device, device, reference_cache, cache;  // empty: any
    std::optional<double> near_tie_ulps;
    std::optional<double> noise_z;
    std::vector<GateRule> rules;
  };
  void check_dropped_rules(const std::string& subject) const;

  std::string name_;
  std::string description_;
  std::string base_;  // built-in to start from; empty: none
  std::optional<double> near_tie_ulps_;
  std::optional<double> noise_z_;
  std::vector<GateRule> rules_;  // here and in overrides, a rule without bounds drops another
  std::vector<Override> overrides_;
};

// "same-device", "fp32-cross", "16bit-cross", "fp8".
[[nodiscard]] std::span<const std::string_view> builtin_gate_names();

// Applied without --gate: no hard flip (of a mixture of experts: none beyond their tail
// probability), no NaN or Inf in any mode that ran.
[[nodiscard]] Gate default_gate(const GateContext& context);

// The modes that run where nobody chose any: inject, and those that the gate's
// rules name, since it would fail without them.
[[nodiscard]] std::vector<format::ReplayMode> modes_for(const Gate& gate);

struct RuleResult {
  // With the bounds that held for `figure`: a budget of ties is widened to whole
  // tokens (docs/gates.md).
  GateRule rule;
  std::string figure;              // the worst of those that match; the rule's own when none does
  std::optional<double> measured;  // nothing: missing, which fails unless `unjudged` says why
  // Why there was nothing to measure: the stretch has no step, or the recordings hold no K/V of
  // it. Such a rule passes; empty otherwise.
  std::string unjudged;
  std::size_t matched = 0;  // figures that the rule judged
  std::size_t failed = 0;   // of those
  bool passed = false;
  std::vector<std::string> failures;  // names of the figures that failed, worst first
};
// "inject.kl.p99: measured 0.0021, allowed at most 0.002" - without colour, one line.
[[nodiscard]] std::string describe(const RuleResult& result);

struct GateResult {
  std::string gate;
  bool passed = false;
  std::vector<RuleResult> rules;

  // No rule failed for a figure of this stretch ("prefill", "inject", "forced",
  // "free"). Rules with a missing figure count for the stretch they name.
  [[nodiscard]] bool stretch_passed(std::string_view stretch) const;
};
// The worst figure of each rule: that which exceeds its bound most, or comes
// closest to it. NaN fails every bound. A rule whose figures all have rules of
// their own is left out.
[[nodiscard]] GateResult evaluate(const Gate& gate, const Figures& figures);

// What the pattern of passed and failed modes means.
enum class Finding {
  kReproducible,  // everything that ran passes
  kPrefill,       // the prefill fails: prompt processing differs
  kCompute,       // inject fails: a step computes something else from the same inputs
  kCache,         // inject passes, forced fails: writing, scaling or accumulation of K/V
  kFeedback,      // inject and forced pass, free fails: small differences grow through the tokens
  kUndetermined,  // something fails, and inject did not run
};
[[nodiscard]] Finding find_cause(const RunSummary& run, const GateResult& gate);
// "reproducible", "prefill", "compute", "cache", "feedback", "undetermined".
[[nodiscard]] std::string_view finding_name(Finding finding);
// One or two sentences for a person, with what to look at next.
[[nodiscard]] std::string describe(Finding finding, const RunSummary& run);
// A sentence, after a space, where rows of K/V that depart are explained by a router: the layer
// before the departure's has a mixture of experts, which chooses other ones for a token from
// rounding alone. Empty otherwise.
[[nodiscard]] std::string describe_routed(const RunSummary& run,
                                          const std::vector<bool>& routed_layers);

}  // namespace kvtool::analysis
