#include "perplexity.h"

#include <cmath>

#include "kvtool/analysis/statistics.h"

namespace kvtool::run {
namespace {

constexpr double kNormal975 = 1.959963984540054;

std::uint64_t count_nonfinite(std::span<const double> values) {
  std::uint64_t count = 0;
  for (const double value : values) count += std::isfinite(value) ? 0U : 1U;
  return count;
}

}  // namespace

std::vector<double> losses_of(std::span<const engine::ScoredText> texts) {
  std::vector<double> losses;
  for (const engine::ScoredText& text : texts) {
    for (const engine::TokenScore& token : text.tokens) losses.push_back(-token.log_probability);
  }
  return losses;
}

void take_perplexity(std::span<const double> losses, std::span<const double> full,
                     PerplexityRow& row) {
  row.tokens = losses.size();
  row.nonfinite = count_nonfinite(losses);
  if (losses.empty() || row.nonfinite > 0) return;
  row.perplexity = std::exp(analysis::mean_of(losses));
  if (full.size() != losses.size() || count_nonfinite(full) > 0) return;
  std::vector<double> differences;
  for (std::size_t i = 0; i < losses.size(); ++i) differences.push_back(losses[i] - full[i]);
  const double mean = analysis::mean_of(differences);
  row.increase = std::expm1(mean);
  if (differences.size() < 2) return;
  const double half = kNormal975 * analysis::standard_error_of_mean(differences);
  row.increase_low = std::expm1(mean - half);
  row.increase_high = std::expm1(mean + half);
}

}  // namespace kvtool::run
