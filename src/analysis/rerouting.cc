#include "kvtool/analysis/rerouting.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "kvtool/analysis/statistics.h"

namespace kvtool::analysis {
namespace {

// So many times the layer's median row is far above it, and errors below so many rounding floors
// say nothing, as in a departure.
constexpr double kFarAbove = 8.0;
constexpr double kQuietFloors = 2.0;
// What a later layer keeps of the first one's error.
constexpr double kKept = 1.0 / 8.0;

double floor_of(const KvError& layer) {
  if (layer.sum_squared_reference <= 0.0) return 0.0;
  return std::sqrt(layer.sum_squared_floor / layer.sum_squared_reference);
}

// The larger of K's and V's; 0 where neither was measured, infinity where one is not finite.
double error_of(const KvProfile& profile, std::size_t layer, std::uint64_t position) {
  double largest = 0.0;
  for (const KvKind kind : kKvKinds) {
    const double error = profile.row_error(kind, layer, position);
    if (!std::isnan(error)) largest = std::max(largest, error);
  }
  return largest;
}

// Above which a row of each layer stands out.
std::vector<double> far_above(const KvProfile& profile) {
  std::vector<double> limits;
  for (std::size_t layer = 0; layer < profile.num_layers(); ++layer) {
    std::vector<double> errors;
    for (std::uint64_t position = 0; position < profile.num_positions(); ++position) {
      errors.push_back(error_of(profile, layer, position));
    }
    const double quiet = kQuietFloors * std::max(floor_of(profile.layer(KvKind::kKey, layer)),
                                                 floor_of(profile.layer(KvKind::kValue, layer)));
    limits.push_back(kFarAbove * std::max(quantile(errors, 0.5).value_or(0.0), quiet));
  }
  return limits;
}

}  // namespace

bool is_behind_experts(std::size_t layer, const std::vector<bool>& routed_layers) {
  return layer > 0 && layer <= routed_layers.size() && routed_layers[layer - 1];
}

std::vector<std::size_t> rerouted_from(const KvProfile& profile,
                                       const std::vector<bool>& routed_layers) {
  const std::size_t layers = profile.num_layers();
  std::vector<std::size_t> first(profile.num_positions(), layers);
  if (std::find(routed_layers.begin(), routed_layers.end(), true) == routed_layers.end()) {
    return first;
  }
  const std::vector<double> limits = far_above(profile);
  for (std::uint64_t position = 0; position < profile.num_positions(); ++position) {
    std::size_t layer = layers;
    while (layer > 0 && error_of(profile, layer - 1, position) > limits[layer - 1]) --layer;
    if (layer == layers || !is_behind_experts(layer, routed_layers)) continue;
    const double least = kKept * error_of(profile, layer, position);
    bool kept = true;
    for (std::size_t later = layer; later < layers; ++later) {
      kept = kept && error_of(profile, later, position) >= least;
    }
    if (kept) first[position] = layer;
  }
  return first;
}

}  // namespace kvtool::analysis
