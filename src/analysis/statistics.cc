#include "kvtool/analysis/statistics.h"

#include <algorithm>
#include <cmath>

namespace kvtool::analysis {
namespace {

// Continued fraction of the incomplete beta function (DLMF 8.17.22), evaluated
// by the modified Lentz method; converges fast for x < (a + 1) / (a + b + 2).
double beta_fraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;
  constexpr double kEnough = 1e-15;
  // About the square root of the larger parameter is needed.
  constexpr int kMaxIterations = 200000;
  const auto nonzero = [](double value) { return std::abs(value) < kTiny ? kTiny : value; };
  double c = 1.0;
  double d = 1.0 / nonzero(1.0 - (a + b) * x / (a + 1.0));
  double result = d;
  for (int i = 1; i < kMaxIterations; ++i) {
    const double m = i;
    const double even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
    double factor = 1.0;
    for (const double term : {even, odd}) {
      d = 1.0 / nonzero(1.0 + term * d);
      c = nonzero(1.0 + term / c);
      factor = c * d;
      result *= factor;
    }
    if (std::abs(factor - 1.0) < kEnough) break;
  }
  return result;
}

// Regularized incomplete beta function I_x(a, b), 0 < x < 1.
double incomplete_beta(double a, double b, double x) {
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
                                a * std::log(x) + b * std::log1p(-x));
  if (x < (a + 1.0) / (a + b + 2.0)) return front * beta_fraction(a, b, x) / a;
  return 1.0 - front * beta_fraction(b, a, 1.0 - x) / b;
}

}  // namespace

std::optional<double> clopper_pearson_lower(std::uint64_t successes, std::uint64_t trials,
                                            double confidence) {
  if (trials == 0) return std::nullopt;
  if (successes == 0) return 0.0;
  const double alpha = 1.0 - confidence;
  const auto n = static_cast<double>(trials);
  if (successes >= trials) return std::pow(alpha, 1.0 / n);

  // P(X >= k | n, p) = I_p(k, n - k + 1) grows with p.
  const auto k = static_cast<double>(successes);
  double low = 0.0;
  double high = k / n;
  while (true) {
    const double middle = low + (high - low) / 2.0;
    if (middle <= low || middle >= high) return low;
    (incomplete_beta(k, n - k + 1.0, middle) <= alpha ? low : high) = middle;
  }
}

std::optional<double> quantile(std::vector<double>& values, double q) {
  if (values.empty()) return std::nullopt;
  const auto count = static_cast<double>(values.size());
  // 0.07 * 100 is a little above 7 in binary: a product that close to a rank is that rank.
  const double rank = std::clamp(std::ceil(q * count - 1e-9), 1.0, count);
  const auto nth = values.begin() + static_cast<std::ptrdiff_t>(rank) - 1;
  std::nth_element(values.begin(), nth, values.end());
  return *nth;
}

double mean_of(std::span<const double> values) {
  double sum = 0.0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

double standard_error_of_mean(std::span<const double> values) {
  const double mean = mean_of(values);
  double squares = 0.0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const auto count = static_cast<double>(values.size());
  return std::sqrt(squares / (count - 1.0) / count);
}

}  // namespace kvtool::analysis
