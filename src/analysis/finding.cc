// What the pattern of passed and failed modes says about the cause.
#include <algorithm>
#include <array>
#include <cstdio>

#include "kvtool/analysis/gate.h"
#include "kvtool/analysis/rerouting.h"
#include "kvtool/base/setting.h"

namespace kvtool::analysis {
namespace {

using format::ReplayMode;

// Whether a measured figure of the stretch breaks its bound. A figure that is
// missing says nothing about the device.
bool breaks(const GateResult& gate, std::string_view stretch) {
  const std::string prefix = std::string(stretch) + ".";
  return std::any_of(gate.rules.begin(), gate.rules.end(), [&](const RuleResult& rule) {
    return std::any_of(rule.failures.begin(), rule.failures.end(),
                       [&](const std::string& figure) { return figure.starts_with(prefix); });
  });
}

bool ran(const RunSummary& run, ReplayMode mode) { return run.mode(mode) != nullptr; }

std::string modes_that_ran(const RunSummary& run) {
  std::string text = "the prefill";
  for (std::size_t i = 0; i < run.modes.size(); ++i) {
    text += i + 1 == run.modes.size() ? " and " : ", ";
    text += format::replay_mode_name(run.modes[i].mode);
  }
  return text;
}

std::string number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3g", value);
  return text.data();
}

std::string amplification(const RunSummary& run) {
  if (!run.amplification) return {};
  return " On the device's own cache the distribution moves " + number(*run.amplification) +
         " times as far from the reference's as on the injected one (amplification: median KL "
         "forced / inject).";
}

// Where the K/V error of a stretch begins.
std::string beginning(const StretchSummary& stretch) {
  if (!stretch.kv.departure) return {};
  const Departure& departure = *stretch.kv.departure;
  std::string text = std::string(" The K/V error begins in layer ") +
                     std::to_string(departure.layer) +
                     (departure.kind == KvKind::kKey ? ", key" : ", value");
  if (!departure.whole_layer) {
    text +=
        ", position " + std::to_string(stretch.kv.departure_first_position + departure.position);
  }
  return text + " of " + to_string(stretch.kv.departure_input) + ".";
}

std::string beginning(const RunSummary& run, ReplayMode mode) {
  const ModeSummary* summary = run.mode(mode);
  return summary == nullptr ? std::string() : beginning(summary->steps);
}

bool has_steps(const RunSummary& run) {
  return std::any_of(run.modes.begin(), run.modes.end(), [](const ModeSummary& mode) {
    return mode.steps.tokens.compared + mode.steps.tokens.uncompared > 0;
  });
}

bool has_recorded_step_kv(const RunSummary& run) {
  return std::any_of(run.modes.begin(), run.modes.end(),
                     [](const ModeSummary& mode) { return mode.steps.kv.recorded_rows > 0; });
}

std::string describe_reproducible(const RunSummary& run) {
  if (!has_steps(run)) {
    return "This device reproduces the prefill: every figure of it keeps the gate's bounds. There "
           "was no step to judge: every recorded generation ends with its first token.";
  }
  std::string text = "This device reproduces the reference: every figure of " +
                     modes_that_ran(run) + " keeps the gate's bounds.";
  if (!has_recorded_step_kv(run)) {
    text +=
        " Of the steps, only tokens and logits were judged: the recordings hold no K/V of "
        "them.";
  }
  if (!ran(run, ReplayMode::kForced)) {
    // A diff of generations that ran on their own has nothing more to run.
    if (!ran(run, ReplayMode::kInject)) return text;
    return text + " To judge the device's own cache as well, add " + setting("mode") +
           " inject,forced,free.";
  }
  return text + amplification(run);
}

std::string describe_undetermined(const RunSummary& run) {
  if (!ran(run, ReplayMode::kInject)) {
    return "A bound is broken, and without inject the cause stays open: a step or the cache. "
           "Replay with " +
           setting("mode") + " inject,forced to tell them apart.";
  }
  if (ran(run, ReplayMode::kFree) && !ran(run, ReplayMode::kForced)) {
    return "Each step is right on the reference's cache, and the device's own text is not: either "
           "its cache is wrong, or small differences choose other tokens. Add " +
           setting("mode") + " inject,forced,free to tell them apart.";
  }
  return "No measured figure breaks its bound, but the gate asks for figures that this run did "
         "not measure. See the rules marked as not measured: their mode did not run, or the "
         "recording lacks K/V or logits.";
}

}  // namespace

std::string describe_routed(const RunSummary& run, const std::vector<bool>& routed_layers) {
  const auto explains = [&](const StretchSummary& stretch) {
    const std::optional<Departure>& departure = stretch.kv.departure;
    return departure && !departure->whole_layer && departure->figure == "relative_l2" &&
           is_behind_experts(departure->layer, routed_layers);
  };
  const StretchSummary* stretch = explains(run.prefill) ? &run.prefill : nullptr;
  for (const ModeSummary& mode : run.modes) {
    if (stretch == nullptr && explains(mode.steps)) stretch = &mode.steps;
  }
  if (stretch == nullptr) return {};
  const std::size_t layer = stretch->kv.departure->layer;
  return " Layer " + std::to_string(layer - 1) +
         " is a mixture of experts: where its router chooses other experts for a token, which "
         "rounding alone can do, the rows of layer " +
         std::to_string(layer) + " and all later ones stand out at that position.";
}

Finding find_cause(const RunSummary& run, const GateResult& gate) {
  if (gate.passed) return Finding::kReproducible;
  if (breaks(gate, "prefill")) return Finding::kPrefill;
  if (!ran(run, ReplayMode::kInject)) return Finding::kUndetermined;
  if (breaks(gate, "inject")) return Finding::kCompute;
  if (breaks(gate, "forced")) return Finding::kCache;
  if (breaks(gate, "free") && ran(run, ReplayMode::kForced)) return Finding::kFeedback;
  return Finding::kUndetermined;
}

std::string_view finding_name(Finding finding) {
  switch (finding) {
    case Finding::kReproducible: return "reproducible";
    case Finding::kPrefill: return "prefill";
    case Finding::kCompute: return "compute";
    case Finding::kCache: return "cache";
    case Finding::kFeedback: return "feedback";
    case Finding::kUndetermined: return "undetermined";
  }
  return "undetermined";
}

std::string describe(Finding finding, const RunSummary& run) {
  switch (finding) {
    case Finding::kReproducible: return describe_reproducible(run);
    case Finding::kPrefill:
      return "The prefill fails: the prompt's K/V or the first token differ before any step ran. "
             "Look at how the prompt is processed: weights and their number format, positions "
             "(RoPE), mask and padding, attention kernel." +
             beginning(run.prefill);
    case Finding::kCompute:
      return "inject fails: given the reference's own cache and token, a step computes something "
             "else, so errors carried along in the cache are not the cause. Look at what a step "
             "does anew: its projections, position (RoPE), attention, number formats and the row "
             "that it writes." +
             beginning(run, ReplayMode::kInject);
    case Finding::kCache:
      return "inject passes and forced fails: each step is right on the reference's cache and "
             "wrong on the device's own. Look at how K/V is written, scaled, quantized and "
             "addressed, and at errors that accumulate over steps." +
             beginning(run, ReplayMode::kForced) + amplification(run);
    case Finding::kFeedback:
      return "inject and forced pass, free fails: steps and cache are right, and small "
             "differences grow once the device's own tokens are fed back. Look at the first "
             "divergences: where they are ties, rounding chose another text." +
             amplification(run);
    case Finding::kUndetermined: return describe_undetermined(run);
  }
  return {};
}

}  // namespace kvtool::analysis
