// Pearson's correlation of two sides, streamed: means and sums about them, which
// unlike plain sums of squares lose no digits where a mean is large.
#pragma once

#include <cstdint>
#include <span>

namespace kvtool::analysis {

// Of any set of pairs; sets without a common pair join.
struct CoMoments {
  std::uint64_t count = 0;
  double mean_live = 0.0;
  double mean_reference = 0.0;
  double live = 0.0;       // sum (x - mean x)^2; exactly 0 when all x are the same
  double reference = 0.0;  // sum (r - mean r)^2
  double product = 0.0;    // sum (x - mean x) (r - mean r)

  // In [-1, 1]; exactly 1 for equal sides. Where a side does not vary there is no
  // correlation: 1 when both hold one and the same value, else 0. 0 without a pair.
  [[nodiscard]] double pearson() const;
  // (T. Chan, G. Golub, R. LeVeque, Updating Formulae and a Pairwise Algorithm for
  // Computing Sample Variances, 1982.)
  void add(const CoMoments& other);
};

// Sides of equal size with finite values only.
[[nodiscard]] CoMoments co_moments(std::span<const float> live, std::span<const float> reference);
// The same of two equal sides.
[[nodiscard]] CoMoments co_moments(std::span<const float> both);

}  // namespace kvtool::analysis
