#include "kvtool/analysis/row_comparison.h"

#include <algorithm>

namespace kvtool::analysis {

std::optional<Departure> RowComparison::prefill_departure() const {
  return find_departure(prefill_kv);
}

std::optional<Departure> RowComparison::step_departure() const { return find_departure(step_kv); }

std::uint64_t RowComparison::matches() const { return count(TokenVerdict::kMatch); }

std::uint64_t RowComparison::count(TokenVerdict verdict) const {
  return static_cast<std::uint64_t>(
      std::count_if(tokens.begin(), tokens.end(),
                    [verdict](const TokenComparison& token) { return token.verdict == verdict; }));
}

std::optional<std::uint64_t> RowComparison::first_divergence() const {
  const auto found = std::find_if(tokens.begin(), tokens.end(), [](const TokenComparison& token) {
    return token.verdict != TokenVerdict::kMatch;
  });
  if (found == tokens.end()) return std::nullopt;
  return found->index;
}

bool RowComparison::nonfinite() const {
  return std::any_of(tokens.begin(), tokens.end(),
                     [](const TokenComparison& token) { return token.nonfinite; }) ||
         prefill_kv.total().nonfinite > 0 || step_kv.total().nonfinite > 0;
}

bool RowComparison::logits_equal() const {
  return std::all_of(tokens.begin(), tokens.end(),
                     [](const TokenComparison& token) { return token.logits_equal; });
}

bool RowComparison::bitwise_equal() const {
  return uncompared_steps == 0 && logits_equal() && prefill_kv.total().bitwise_equal() &&
         step_kv.total().bitwise_equal();
}

}  // namespace kvtool::analysis
