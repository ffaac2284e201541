#include "mismatches.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "kvtool/analysis/logit_noise.h"
#include "kvtool/analysis/statistics.h"
#include "kvtool/base/text.h"

namespace kvtool::report {
namespace {

using analysis::FlipBounds;
using analysis::FlipSummary;
using analysis::RowComparison;
using analysis::TokenComparison;
using analysis::TokenVerdict;

// Short, but on the same side of the bound as the value.
std::string beside_bound(double value, double bound) {
  constexpr int kMostDigits = 17;
  if (!std::isfinite(value)) return fmt::format("{}", value);
  const int whole = value >= 1.0 ? static_cast<int>(std::log10(value)) + 1 : 1;
  for (int digits = std::max(2, whole); digits < kMostDigits; ++digits) {
    std::string text = fmt::format("{:.{}g}", value, digits);
    if ((std::strtod(text.c_str(), nullptr) <= bound) == (value <= bound)) return text;
  }
  return fmt::format("{:.17g}", value);
}

// " = 8 ulp = 2.1 noise".
std::string gap_units(const TokenComparison& token, const FlipBounds& bounds) {
  // Where nothing shows how large the gap is, the least that it can be.
  const double judged = token.judged_gap();
  const double gap = std::isnan(judged) ? token.gap : judged;
  std::string text;
  if (token.ulp > 0.0) text += fmt::format(" = {:.3g} ulp", gap / token.ulp);
  if (token.noise_bound > 0.0 && !std::isnan(judged)) {
    text += fmt::format(" = {} noise",
                        beside_bound(token.gap_in_noise(bounds.noise_z), bounds.noise_z));
  }
  return text;
}

std::string broken_rule(const TokenComparison& token, const FlipBounds& bounds) {
  if (token.nonfinite) return "NaN or Inf";
  if (std::isnan(token.judged_gap())) return "the recorded token is not in the live top-k";
  if (std::isnan(token.noise_bound)) {
    return fmt::format("over {:g} ulp", std::max(1.0, bounds.near_tie_ulps));
  }
  return fmt::format("over 1 ulp and over {:g} noise", bounds.noise_z);
}

// What decided the class, with its limit.
std::string rule_text(const TokenComparison& token, const FlipBounds& bounds) {
  switch (token.verdict) {
    case TokenVerdict::kMatch: return {};
    case TokenVerdict::kTie: return "a tie: up to 1 ulp";
    case TokenVerdict::kNoise: return fmt::format("noise explains up to {:g}", bounds.noise_z);
    case TokenVerdict::kNearTie:
      return fmt::format("a near-tie: up to {:g} ulp", bounds.near_tie_ulps);
    case TokenVerdict::kHardFlip: return "a hard flip: " + broken_rule(token, bounds);
  }
  return {};
}

template <typename Visit>
bool any_stretch(const analysis::RunSummary& run, const Visit& visit) {
  return visit(run.prefill) ||
         std::any_of(run.modes.begin(), run.modes.end(),
                     [&](const analysis::ModeSummary& mode) { return visit(mode.steps); });
}

}  // namespace

std::string_view class_text(TokenVerdict verdict) {
  switch (verdict) {
    case TokenVerdict::kMatch: return "match";
    case TokenVerdict::kTie: return "tie";
    case TokenVerdict::kNoise: return "noise";
    case TokenVerdict::kNearTie: return "near-tie";
    case TokenVerdict::kHardFlip: return "hard flip";
  }
  return "unknown";
}

TokenCounts count_tokens(const RowComparison& comparison) {
  TokenCounts counts;
  for (const TokenComparison& token : comparison.tokens) counts.add(token);
  return counts;
}

TokenCounts count_steps(const RowComparison& comparison) {
  TokenCounts counts;
  for (const TokenComparison& token : comparison.tokens) {
    if (token.index > 0) counts.add(token);
  }
  return counts;
}

std::string mismatch_counts(const TokenCounts& counts) {
  std::string result;
  const auto append = [&](std::uint64_t number, std::string_view noun) {
    if (number > 0) result += (result.empty() ? "" : ", ") + counted(number, noun);
  };
  append(counts.ties, "tie");
  append(counts.noise_flips, "noise flip");
  append(counts.near_ties, "near-tie");
  append(counts.hard_flips, "hard flip");
  return result;
}

std::uint64_t count_hard_flips(const analysis::ModeSummary& mode) {
  return std::max<std::uint64_t>(mode.hard_flips.size(), mode.steps.tokens.hard_flips);
}

bool is_foreign_class(std::string_view figure, const run::Verdict& verdict) {
  return figure == (verdict.measures_noise ? "tokens.near_ties" : "tokens.noise_flips");
}

FlipRule flip_rule(const TokenComparison& token) {
  switch (token.verdict) {
    case TokenVerdict::kMatch: return FlipRule::kNone;
    case TokenVerdict::kTie:
    case TokenVerdict::kNearTie: return FlipRule::kUlp;
    case TokenVerdict::kNoise: return FlipRule::kNoise;
    case TokenVerdict::kHardFlip: break;
  }
  if (token.nonfinite || std::isnan(token.judged_gap())) return FlipRule::kNone;
  return std::isnan(token.noise_bound) ? FlipRule::kUlp : FlipRule::kNoise;
}

std::string gap_text(const TokenComparison& token, const FlipBounds& bounds) {
  if (!std::isfinite(token.gap)) return "unknown";
  std::string text = fmt::format("{}{:.4g}", token.gap_is_bound ? "at least " : "", token.gap);
  if (token.gap_is_bound && std::isfinite(token.live_gap)) {
    text += fmt::format(", {:.4g} in the live logits", token.live_gap);
  }
  text += gap_units(token, bounds);
  const std::string rule = rule_text(token, bounds);
  return rule.empty() ? text : text + " (" + rule + ")";
}

std::string describe_gap(const TokenComparison& token, const FlipBounds& bounds) {
  const std::string margin =
      std::isfinite(token.margin)
          ? fmt::format("margin {:.4g}", token.margin)
          : std::string("margin unknown (the recording has no top-2 logits)");
  return "gap " + gap_text(token, bounds) + ", " + margin;
}

std::string judged_by_ulp() {
  return fmt::format(
      "Judged by ulp: the recordings hold no sample of logits that shows noise. Record again with "
      "this version, and a top-k of at least {}, to have mismatches judged by noise.",
      analysis::kFewestDeltas);
}

std::string judged_line(const run::Verdict& verdict) {
  if (verdict.measures_noise) {
    return fmt::format(
        "Judged by measured noise, which explains a gap of up to {:g} noise (1 noise: the measured "
        "standard deviation of the difference of two logits).",
        verdict.flip_bounds.noise_z);
  }
  return judged_by_ulp();
}

bool measures_noise(const RowComparison& comparison) {
  return std::any_of(comparison.tokens.begin(), comparison.tokens.end(),
                     [](const TokenComparison& token) { return !std::isnan(token.noise_bound); });
}

std::string expected_text(const FlipSummary& flips) {
  // Two digits of the deviation; more than two decimals say nothing about a count.
  constexpr double kLeastShown = 0.005;
  constexpr int kMostDecimals = 2;
  if (!flips.expected || !flips.deviation) return "-";
  if (*flips.expected == 0.0) return "0";
  if (*flips.expected < kLeastShown) return "< 0.01";
  const int decimals =
      *flips.deviation > 0.0
          ? std::clamp(1 - static_cast<int>(std::floor(std::log10(*flips.deviation))), 0,
                       kMostDecimals)
          : kMostDecimals;
  return fmt::format("{:.{}f} ± {:.{}f}", *flips.expected, decimals, *flips.deviation, decimals);
}

std::string flips_text(const FlipSummary& flips) {
  if (!flips.tail) return {};
  return fmt::format("{} observed, {} expected, p {}", flips.observed, expected_text(flips),
                     probability_text(*flips.tail));
}

std::string probability_text(double probability) {
  // 1 means certain: what is less is not rounded to it.
  if (probability < 1.0 && probability > 0.99) return "> 0.99";
  return fmt::format("{:.2g}", probability);
}

bool has_hard_flips(const FlipSummary& hard_flips) {
  constexpr double kLikely = 0.01;
  return hard_flips.observed > 0 || hard_flips.expected.value_or(0.0) >= kLikely;
}

std::string flips_note(const run::Verdict& verdict) {
  const auto measured = [](const analysis::StretchSummary& stretch) {
    return stretch.flips.tail.has_value();
  };
  if (!any_stretch(verdict.run, measured)) return {};
  std::string note = "p: the probability that noise alone makes as many flips, or more.";
  std::string dependent;
  for (const analysis::ModeSummary& mode : verdict.run.modes) {
    if (mode.mode == format::ReplayMode::kInject || !measured(mode.steps)) continue;
    dependent +=
        (dependent.empty() ? "" : " and ") + std::string(format::replay_mode_name(mode.mode));
  }
  if (dependent.empty()) return note;
  return note + " In " + dependent + " one flip leads to others: p is shown there and not gated.";
}

std::string kl_name(bool estimated) { return estimated ? "KL" : "KL (lower bound)"; }

bool estimates_kl(const analysis::RunSummary& run) {
  return any_stretch(run, [](const analysis::StretchSummary& stretch) {
    return stretch.logits.kl_estimate.measured > 0;
  });
}

bool estimates_kl(const RowComparison& comparison) {
  return std::any_of(
      comparison.tokens.begin(), comparison.tokens.end(),
      [](const TokenComparison& token) { return !std::isnan(token.kl_estimate.value); });
}

std::string amplification_text(const analysis::RunSummary& run) {
  if (!run.amplification) return {};
  return fmt::format("Amplification (median {}, forced / inject): {:.3g}",
                     estimates_kl(run) ? "KL" : "lower bound of KL", *run.amplification);
}

double kl_of(const TokenComparison& token, bool estimated) {
  return estimated ? token.kl_estimate.value : token.kl;
}

std::optional<double> step_kl_p99(const RowComparison& comparison, bool estimated) {
  std::vector<double> values;
  for (const TokenComparison& token : comparison.tokens) {
    const double kl = kl_of(token, estimated);
    if (token.index > 0 && !std::isnan(kl)) values.push_back(kl);
  }
  return analysis::quantile(values, 0.99);
}

}  // namespace kvtool::report
