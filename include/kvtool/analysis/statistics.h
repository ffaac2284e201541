// Statistics that the summaries share.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace kvtool::analysis {

// Lower end of the one-sided Clopper-Pearson interval for a proportion: the
// largest p for which P(X >= successes | trials, p) <= 1 - confidence. 0 without
// a success, nothing without a trial. (Clopper, Pearson, Biometrika 26, 1934.)
[[nodiscard]] std::optional<double> clopper_pearson_lower(std::uint64_t successes,
                                                          std::uint64_t trials,
                                                          double confidence = 0.95);

// The q-quantile as the smallest value with at least q of all values at or below
// it (nearest rank, so always one of the values): q = 0.5 is the lower median.
// Nothing for no values. Reorders `values`; none may be NaN.
[[nodiscard]] std::optional<double> quantile(std::vector<double>& values, double q);

// Of at least one value.
[[nodiscard]] double mean_of(std::span<const double> values);
// Of their mean, as far as they are independent: sample deviation / sqrt(count). Of at least two.
[[nodiscard]] double standard_error_of_mean(std::span<const double> values);

}  // namespace kvtool::analysis
