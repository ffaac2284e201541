// How reports for people speak of mismatches and of how far distributions are apart: classes,
// sizes, what decided, and how many noise alone makes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kvtool/run/result.h"

namespace kvtool::report {

// "match", "tie", "noise", "near-tie", "hard flip".
[[nodiscard]] std::string_view class_text(analysis::TokenVerdict verdict);

// Tokens of a comparison, by verdict.
using TokenCounts = analysis::TokenSummary;
[[nodiscard]] TokenCounts count_tokens(const analysis::RowComparison& comparison);
// Only those that steps predicted.
[[nodiscard]] TokenCounts count_steps(const analysis::RowComparison& comparison);
// "1 tie, 2 noise flips, 2 hard flips", empty when there is none.
[[nodiscard]] std::string mismatch_counts(const TokenCounts& counts);
// Hard flips of a mode, also those beyond the list.
[[nodiscard]] std::uint64_t count_hard_flips(const analysis::ModeSummary& mode);
// A class that cannot be where this is how tokens were judged: 0 is not worth a row.
[[nodiscard]] bool is_foreign_class(std::string_view figure, const run::Verdict& verdict);

// What decided a mismatch's class.
enum class FlipRule {
  kUlp,    // the number format's grid
  kNoise,  // measured noise
  kNone,   // nothing: a match, or the gap is unknown or not finite
};
[[nodiscard]] FlipRule flip_rule(const analysis::TokenComparison& token);
// "0.125 = 8 ulp = 2.1 noise (noise explains up to 4)".
[[nodiscard]] std::string gap_text(const analysis::TokenComparison& token,
                                   const analysis::FlipBounds& bounds);
// "gap 0.25 = 2 ulp (a near-tie: up to 2 ulp), margin 0.25".
[[nodiscard]] std::string describe_gap(const analysis::TokenComparison& token,
                                       const analysis::FlipBounds& bounds);
// That it is the ulp alone, and what to do.
[[nodiscard]] std::string judged_by_ulp();
// By what the mismatches of a verdict are judged.
[[nodiscard]] std::string judged_line(const run::Verdict& verdict);
// Some token's noise is known.
[[nodiscard]] bool measures_noise(const analysis::RowComparison& comparison);

// "38.2 ± 5.3", "-" where noise is known of no token.
[[nodiscard]] std::string expected_text(const analysis::FlipSummary& flips);
// "37 observed, 38.2 ± 5.3 expected, p 0.62"; empty where that is not known.
[[nodiscard]] std::string flips_text(const analysis::FlipSummary& flips);
[[nodiscard]] std::string probability_text(double probability);
// There are hard flips, or noise alone may well make one.
[[nodiscard]] bool has_hard_flips(const analysis::FlipSummary& hard_flips);
// What p is; empty where no stretch has it.
[[nodiscard]] std::string flips_note(const run::Verdict& verdict);

// "KL", or "KL (lower bound)" where there is no estimate.
[[nodiscard]] std::string kl_name(bool estimated);
// Some stretch has estimates.
[[nodiscard]] bool estimates_kl(const analysis::RunSummary& run);
[[nodiscard]] bool estimates_kl(const analysis::RowComparison& comparison);
// "Amplification (median KL forced / inject): 1.57"; empty where there is none.
[[nodiscard]] std::string amplification_text(const analysis::RunSummary& run);
// The estimate, or the lower bound where the comparison has no estimates.
[[nodiscard]] double kl_of(const analysis::TokenComparison& token, bool estimated);
// 99th percentile of the steps' tokens.
[[nodiscard]] std::optional<double> step_kl_p99(const analysis::RowComparison& comparison,
                                                bool estimated);

}  // namespace kvtool::report
