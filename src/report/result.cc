#include "kvtool/report/result.h"

#include <algorithm>
#include <limits>

namespace kvtool::report {

double tokens_per_second(std::uint64_t steps, double decode_seconds) {
  if (steps == 0 || !(decode_seconds > 0.0)) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(steps) / decode_seconds;
}

bool comparison_failed(const analysis::RowComparison& comparison) {
  const bool nonfinite_token = std::any_of(comparison.tokens.begin(), comparison.tokens.end(),
                                           [](const auto& token) { return token.nonfinite; });
  return nonfinite_token || comparison.count(analysis::TokenVerdict::kHardFlip) > 0 ||
         comparison.prefill_kv.nonfinite > 0 || comparison.step_kv.nonfinite > 0;
}

namespace {

void add_replay(Summary::Replayed& total, const InputResult& input) {
  const analysis::RowComparison& row = input.replay->comparison;
  const bool token0_matches =
      !row.tokens.empty() && row.tokens.front().verdict == analysis::TokenVerdict::kMatch;
  total.matches += row.matches() - (token0_matches ? 1 : 0);
  total.prefill_matches += token0_matches ? 1 : 0;
  total.inputs_matching += row.first_divergence().has_value() ? 0 : 1;
  total.ties += row.count(analysis::TokenVerdict::kTie);
  total.near_ties += row.count(analysis::TokenVerdict::kNearTie);
  total.hard_flips += row.count(analysis::TokenVerdict::kHardFlip);
  const bool nonfinite =
      row.prefill_kv.nonfinite > 0 || row.step_kv.nonfinite > 0 ||
      std::any_of(row.tokens.begin(), row.tokens.end(), [](const auto& t) { return t.nonfinite; });
  total.nonfinite_inputs += nonfinite ? 1 : 0;
  total.inputs_bitwise_equal += row.bitwise_equal() ? 1 : 0;
  const bool logits_equal = std::all_of(row.tokens.begin(), row.tokens.end(),
                                        [](const auto& t) { return t.logits_equal; });
  total.inputs_logits_equal += logits_equal ? 1 : 0;
  total.prefill_kv.add(row.prefill_kv);
  total.step_kv.add(row.step_kv);
  if (const auto index = row.first_divergence()) {
    total.first_divergences.push_back({input.model_slug, input.batch_size, input.input_index,
                                       *index, row.tokens.at(*index).verdict});
  }
  total.failed = total.failed || comparison_failed(row);
}

}  // namespace

void SummaryBuilder::add_input(const InputResult& input) {
  ++summary_.inputs;
  summary_.steps += input.timing.steps;
  if (input.replay) {
    if (!summary_.replayed) summary_.replayed.emplace();
    add_replay(*summary_.replayed, input);
  }
  if (input.saved) {
    ++summary_.saved_recordings;
    summary_.saved_bytes += input.saved->bytes;
  }
}

void SummaryBuilder::add_batch_seconds(double prefill_seconds, double decode_seconds) {
  summary_.prefill_seconds += prefill_seconds;
  summary_.decode_seconds += decode_seconds;
}

}  // namespace kvtool::report
