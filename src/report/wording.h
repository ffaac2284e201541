// Words and numbers that every report for people shares.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kvtool/run/result.h"

namespace kvtool::report {

// Longest token text that a list shows.
inline constexpr std::size_t kTokenCharacters = 40;

// printable(), without line breaks.
[[nodiscard]] std::string one_line(std::string_view bytes);
[[nodiscard]] std::string megabytes(std::uint64_t bytes);
// "0.648 of it"; "n/a" of nothing.
[[nodiscard]] std::string packing_ratio(std::uint64_t packed, std::uint64_t original);
// "26.39", "n/a".
[[nodiscard]] std::string rate(double tokens_per_second_value);
// "99.1%", rounded down, so that 100.0% means all; "n/a" of nothing.
[[nodiscard]] std::string percentage(std::uint64_t part, std::uint64_t whole);
[[nodiscard]] std::string percentage(double fraction);
// Six digits, rounded down so that only 1 itself is shown as 1: 0.999980.
[[nodiscard]] std::string correlation(double value);

// "prefill", "step 4".
[[nodiscard]] std::string place_of(std::uint64_t token_index);
// The token's text in quotes, at most kTokenCharacters; "no finite logit" for id -1.
[[nodiscard]] std::string token_quote(std::int32_t token, std::string_view bytes);

// 'K', 'V'.
[[nodiscard]] char kv_letter(analysis::KvKind kind);

// A router that chose other experts explains some row of K/V.
[[nodiscard]] bool reroutes(const analysis::RunSummary& run);

enum class Stretch { kPrefill, kSteps };
// "K of layer 12 leaves the profile of the others at position 37 (step 5):
// relative L2 0.9, others about 0.005". first_position: of the profile's position 0.
[[nodiscard]] std::string describe_departure(const analysis::Departure& departure,
                                             std::uint64_t first_position, Stretch stretch);

// "PASS", "FAIL", "MISSING".
[[nodiscard]] std::string_view rule_status(const analysis::RuleResult& rule);
// "at least 0.98", "at most 0", "1 to 2", "exactly 1".
[[nodiscard]] std::string allowed_text(const analysis::GateRule& rule);
// Short, but never so short that it seems to be on the other side of a bound; "-" when missing.
[[nodiscard]] std::string measured_text(const analysis::RuleResult& rule);
// "worst of 4 for *.kl.p99, 1 fails" for a pattern that judged several figures, else empty.
[[nodiscard]] std::string pattern_note(const analysis::RuleResult& rule);
[[nodiscard]] std::size_t failed_rules(const analysis::GateResult& gate);

// A hard flip or a NaN or Inf in some mode.
[[nodiscard]] bool input_failed(const run::InputResult& input);
// "Org/Tiny (bfloat16): CPU against NVIDIA_H200".
[[nodiscard]] std::string verdict_title(const run::Verdict& verdict);
// The beginning of its digest, or what the recording does not tell; empty of a list of nothing.
[[nodiscard]] std::string numerics_text(const analysis::NumericList& list);
// "Numerical policy: the same. Platform: differs in torch." Empty where nothing was compared.
[[nodiscard]] std::string numerics_line(const run::Verdict& verdict);
// Empty where both sides kept K/V in the contiguous cache, which needs no words.
[[nodiscard]] std::string cache_line(const run::Verdict& verdict);
[[nodiscard]] std::string cache_line(const run::UsedCache& used);
// ", K/V cache int8", empty likewise.
[[nodiscard]] std::string cache_suffix(const std::string& spec);
// "inject: 5 of 8 inputs; agreed tokens: min 3, median 92".
[[nodiscard]] std::string divergence_text(const analysis::ModeSummary& mode);
inline constexpr std::string_view kDifferentWeights =
    "Different weights: this model does not hold the weights of the reference.";
inline constexpr std::string_view kDifferentConfig =
    "Another config: this model is not built as the model of the reference.";
inline constexpr std::string_view kParallelReplay =
    "Parallel replay: all steps of an input in one pass; other kernels than step by step.";
inline constexpr std::string_view kSingleInputs =
    "One input at a time: other kernels than in the recorded batches.";
// The one of these two that says it; empty for the recorded batches.
[[nodiscard]] std::string_view shape_notice(run::ReplayShape shape);

}  // namespace kvtool::report
