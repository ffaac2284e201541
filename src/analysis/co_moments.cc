// Sums about the first value of each side, from which those about the mean follow. It
// is one of the values, so that n of them lose at most a factor of n in precision,
// however large their mean is; and values that are all the same give exactly 0.
#include "kvtool/analysis/co_moments.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "lanes.h"

namespace kvtool::analysis {
namespace {

using Tail = std::array<float, kLanes>;

// What is left behind the last whole lanes, and the value that adds nothing.
Tail tail_of(std::span<const float> values, std::size_t first) {
  Tail tail;
  tail.fill(values.front());
  std::copy(values.begin() + static_cast<std::ptrdiff_t>(first), values.end(), tail.begin());
  return tail;
}

std::size_t whole_lanes(std::span<const float> values) { return values.size() / kLanes * kLanes; }

// Of x - first x and r - first r.
struct ShiftedSums {
  Lanes live{};
  Lanes reference{};
  Lanes live_squares{};
  Lanes reference_squares{};
  Lanes products{};
};

KVTOOL_VECTORIZED void accumulate_pairs(const float* live, const float* reference, std::size_t size,
                                        double first_live, double first_reference,
                                        ShiftedSums& sums) {
  Lanes live_sum = sums.live;
  Lanes reference_sum = sums.reference;
  Lanes live_squares = sums.live_squares;
  Lanes reference_squares = sums.reference_squares;
  Lanes products = sums.products;
  for (std::size_t i = 0; i < size; i += kLanes) {
    for (std::size_t part = 0; part < kVectors; ++part) {
      Vector x;
      Vector r;
      load(live + i + part * kWidth, x);
      load(reference + i + part * kWidth, r);
      x -= first_live;
      r -= first_reference;
      live_sum[part] += x;
      reference_sum[part] += r;
      live_squares[part] += x * x;
      reference_squares[part] += r * r;
      products[part] += x * r;
    }
  }
  sums = {.live = live_sum,
          .reference = reference_sum,
          .live_squares = live_squares,
          .reference_squares = reference_squares,
          .products = products};
}

KVTOOL_VECTORIZED void accumulate_one(const float* both, std::size_t size, double first,
                                      ShiftedSums& sums) {
  Lanes plain = sums.reference;
  Lanes squares = sums.reference_squares;
  for (std::size_t i = 0; i < size; i += kLanes) {
    for (std::size_t part = 0; part < kVectors; ++part) {
      Vector values;
      load(both + i + part * kWidth, values);
      values -= first;
      plain[part] += values;
      squares[part] += values * values;
    }
  }
  sums.reference = plain;
  sums.reference_squares = squares;
}

}  // namespace

CoMoments co_moments(std::span<const float> live, std::span<const float> reference) {
  if (reference.empty()) return {};
  const auto first_live = static_cast<double>(live.front());
  const auto first_reference = static_cast<double>(reference.front());
  const std::size_t whole = whole_lanes(reference);
  ShiftedSums sums;
  accumulate_pairs(live.data(), reference.data(), whole, first_live, first_reference, sums);
  if (whole < reference.size()) {
    accumulate_pairs(tail_of(live, whole).data(), tail_of(reference, whole).data(), kLanes,
                     first_live, first_reference, sums);
  }
  const auto count = static_cast<double>(reference.size());
  const double x = sum(sums.live);
  const double r = sum(sums.reference);
  return {.count = reference.size(),
          .mean_live = first_live + x / count,
          .mean_reference = first_reference + r / count,
          .live = sum(sums.live_squares) - x * x / count,
          .reference = sum(sums.reference_squares) - r * r / count,
          .product = sum(sums.products) - x * r / count};
}

CoMoments co_moments(std::span<const float> both) {
  if (both.empty()) return {};
  const auto first = static_cast<double>(both.front());
  const std::size_t whole = whole_lanes(both);
  ShiftedSums sums;
  accumulate_one(both.data(), whole, first, sums);
  if (whole < both.size()) accumulate_one(tail_of(both, whole).data(), kLanes, first, sums);
  const auto count = static_cast<double>(both.size());
  const double offset = sum(sums.reference);
  const double mean = first + offset / count;
  const double squares = sum(sums.reference_squares) - offset * offset / count;
  return {.count = both.size(),
          .mean_live = mean,
          .mean_reference = mean,
          .live = squares,
          .reference = squares,
          .product = squares};
}

double CoMoments::pearson() const {
  if (count == 0) return 0.0;
  const bool live_varies = live > 0.0;
  const bool reference_varies = reference > 0.0;
  if (live_varies && reference_varies) {
    return std::clamp(product / std::sqrt(live * reference), -1.0, 1.0);
  }
  return !live_varies && !reference_varies && mean_live == mean_reference ? 1.0 : 0.0;
}

void CoMoments::add(const CoMoments& other) {
  if (other.count == 0) return;
  if (count == 0) {
    *this = other;
    return;
  }
  const auto other_count = static_cast<double>(other.count);
  const double weight = other_count / (static_cast<double>(count) + other_count);
  const double between = static_cast<double>(count) * weight;
  const double live_step = other.mean_live - mean_live;
  const double reference_step = other.mean_reference - mean_reference;
  count += other.count;
  mean_live += live_step * weight;
  mean_reference += reference_step * weight;
  live += other.live + live_step * live_step * between;
  reference += other.reference + reference_step * reference_step * between;
  product += other.product + live_step * reference_step * between;
}

}  // namespace kvtool::analysis
