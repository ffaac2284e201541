// A departure is found on a logarithmic scale (octaves), because rounding noise
// grows by factors from layer to layer. docs/metrics.md explains the rule.
#include "kvtool/analysis/departure.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <tuple>
#include <vector>

#include "kvtool/analysis/statistics.h"

namespace kvtool::analysis {
namespace {

// Below this many rounding floors an error is no larger than what one more
// rounding leaves; differences down there say nothing.
constexpr double kQuietFloors = 2.0;
// A layer stands out by this factor over every layer before it.
constexpr double kLayerOctaves = 4.0;
// A row stands out over its layer's median by this factor, and by as many
// standard deviations of the scatter that all rows show.
constexpr double kRowOctaves = 5.0;
constexpr double kRowDeviations = 5.5;
// A layer's scale error stands out over the median of the other layers by this
// factor, and makes up this share of the layer's relative L2, plus as many standard
// deviations of what independent errors leave in a least-squares factor.
constexpr double kScaleFactor = 4.0;
constexpr double kScaleShare = 0.3;
constexpr double kScaleDeviations = 6.0;
// Share of an error that its scale alone explains: beyond it the scale is named.
// A row that has nothing to do with its reference has 0.71.
constexpr double kMostlyScale = 0.8;
// Scaled by it, the median absolute deviation of normal noise is its standard deviation.
constexpr double kNormalDeviation = 1.4826;

struct Row {
  std::uint64_t position;
  double error;
};

// K or V of one layer.
struct LayerErrors {
  std::vector<Row> rows;  // measured and finite
  double typical = 0.0;   // lower median of the rows
  double quiet = 0.0;     // errors below count as this
  double relative_l2 = 0.0;
  double scale_error = 0.0;
  double elements = 0.0;
  std::uint64_t nonfinite = 0;

  [[nodiscard]] bool every_row_differs() const {
    return std::all_of(rows.begin(), rows.end(), [](const Row& row) { return row.error > 0.0; });
  }
  [[nodiscard]] double octaves(double error) const {
    return std::log2(std::max({error, quiet, std::numeric_limits<double>::min()}));
  }
};

using KindErrors = std::array<std::vector<LayerErrors>, 2>;  // [kind][layer]

double median_of(std::vector<double> values) { return quantile(values, 0.5).value_or(0.0); }

LayerErrors collect_layer(const KvProfile& profile, KvKind kind, std::size_t layer) {
  const KvError pooled = profile.layer(kind, layer);
  LayerErrors errors;
  errors.relative_l2 = pooled.relative_l2();
  errors.scale_error = pooled.scale_error();
  errors.elements = static_cast<double>(pooled.elements);
  errors.nonfinite = pooled.nonfinite;
  if (pooled.sum_squared_reference > 0.0) {
    errors.quiet =
        kQuietFloors * std::sqrt(pooled.sum_squared_floor / pooled.sum_squared_reference);
  }
  std::vector<double> values;
  for (std::uint64_t position = 0; position < profile.num_positions(); ++position) {
    const double error = profile.row_error(kind, layer, position);
    if (std::isnan(error)) continue;
    errors.rows.push_back({position, error});
    values.push_back(error);
  }
  errors.typical = median_of(std::move(values));
  return errors;
}

KindErrors collect(const KvProfile& profile) {
  KindErrors kinds;
  for (const KvKind kind : kKvKinds) {
    for (std::size_t layer = 0; layer < profile.num_layers(); ++layer) {
      kinds[static_cast<std::size_t>(kind)].push_back(collect_layer(profile, kind, layer));
    }
  }
  return kinds;
}

// The order of computation.
bool comes_before(const Departure& a, const Departure& b) {
  return std::tuple(a.position, a.layer, a.kind) < std::tuple(b.position, b.layer, b.kind);
}

void keep_first(std::optional<Departure>& first, const Departure& candidate) {
  if (!first || comes_before(candidate, *first)) first = candidate;
}

Departure whole_layer(KvKind kind, std::size_t layer, const LayerErrors& errors) {
  Departure departure;
  departure.kind = kind;
  departure.layer = layer;
  departure.whole_layer = errors.rows.size() > 1;
  departure.position = errors.rows.empty() ? 0 : errors.rows.front().position;
  return departure;
}

// --- NaN and Inf --------------------------------------------------------------

std::uint64_t first_nonfinite_position(const KvProfile& profile, KvKind kind, std::size_t layer) {
  for (std::size_t block = 0; block < profile.num_blocks(); ++block) {
    if (profile.block(kind, layer, block).nonfinite == 0) continue;
    const std::uint64_t begin = block * profile.block_positions();
    const std::uint64_t end = std::min(begin + profile.block_positions(), profile.num_positions());
    for (std::uint64_t position = begin; position < end; ++position) {
      if (std::isnan(profile.row_error(kind, layer, position))) return position;
    }
    return begin;
  }
  return 0;
}

void find_nonfinite(const KvProfile& profile, const KindErrors& kinds,
                    std::optional<Departure>& first) {
  for (const KvKind kind : kKvKinds) {
    for (std::size_t layer = 0; layer < profile.num_layers(); ++layer) {
      const LayerErrors& errors = kinds[static_cast<std::size_t>(kind)][layer];
      if (errors.nonfinite == 0) continue;
      keep_first(first, {.kind = kind,
                         .layer = layer,
                         .whole_layer = errors.rows.empty() && profile.num_positions() > 1,
                         .position = first_nonfinite_position(profile, kind, layer),
                         .figure = "nonfinite",
                         .measured = static_cast<double>(errors.nonfinite),
                         .typical = 0.0});
    }
  }
}

// --- Bitwise equal surroundings -----------------------------------------------

// The same kernels ran: all positions but one are bitwise equal, or at least the
// first layers are, which no other rounding would leave so.
bool is_quiet(const KindErrors& kinds, std::uint64_t num_positions) {
  constexpr std::size_t kQuietLayers = 4;
  bool first_layers_equal = kinds[0].size() > kQuietLayers;
  std::vector<bool> differs(num_positions);
  for (const std::vector<LayerErrors>& layers : kinds) {
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      for (const Row& row : layers[layer].rows) {
        if (row.error <= 0.0) continue;
        differs[row.position] = true;
        if (layer < kQuietLayers) first_layers_equal = false;
      }
    }
  }
  const bool alone = num_positions > 1 && std::count(differs.begin(), differs.end(), true) <= 1;
  return alone || first_layers_equal;
}

bool mostly_scale(const LayerErrors& errors) {
  return std::abs(errors.scale_error) > kMostlyScale * errors.relative_l2;
}

// Among equal rows the first that differs at all.
void find_first_difference(const KindErrors& kinds, std::optional<Departure>& first) {
  for (const KvKind kind : kKvKinds) {
    const std::vector<LayerErrors>& layers = kinds[static_cast<std::size_t>(kind)];
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      const LayerErrors& errors = layers[layer];
      const auto row = std::find_if(errors.rows.begin(), errors.rows.end(),
                                    [](const Row& entry) { return entry.error > 0.0; });
      if (row == errors.rows.end()) continue;
      Departure departure;
      departure.kind = kind;
      departure.layer = layer;
      departure.position = row->position;
      departure.whole_layer = errors.rows.size() > 1 && errors.every_row_differs();
      departure.figure = "relative_l2";
      departure.measured = departure.whole_layer ? errors.relative_l2 : row->error;
      if (departure.whole_layer && mostly_scale(errors)) {
        departure.figure = "scale_error";
        departure.measured = std::abs(errors.scale_error);
      }
      keep_first(first, departure);
    }
  }
}

// --- Noise all around -----------------------------------------------------------

// A layer whose median row is far above every earlier layer's. What follows a
// wrong layer is disturbed too, so only earlier ones can tell; the first layer has
// none and is held against the other half of its own K and V.
void find_layer(const KindErrors& kinds, std::optional<Departure>& first) {
  for (const KvKind kind : kKvKinds) {
    const std::vector<LayerErrors>& layers = kinds[static_cast<std::size_t>(kind)];
    const std::vector<LayerErrors>& others = kinds[1 - static_cast<std::size_t>(kind)];
    std::vector<double> before;
    double highest = -std::numeric_limits<double>::infinity();
    if (!layers.empty() && !layers[0].rows.empty() && !others[0].rows.empty()) {
      highest = others[0].octaves(others[0].typical);
      before.push_back(others[0].typical);
    }
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      const LayerErrors& errors = layers[layer];
      if (errors.rows.empty()) continue;
      const double level = errors.octaves(errors.typical);
      if (!before.empty() && level - highest > kLayerOctaves) {
        Departure departure = whole_layer(kind, layer, errors);
        departure.figure = mostly_scale(errors) ? "scale_error" : "relative_l2";
        departure.measured =
            mostly_scale(errors) ? std::abs(errors.scale_error) : errors.relative_l2;
        departure.typical = mostly_scale(errors) ? 0.0 : median_of(before);
        keep_first(first, departure);
        break;
      }
      if (layer == 0) before.clear();
      before.push_back(errors.typical);
      highest = layer == 0 ? level : std::max(highest, level);
    }
  }
}

// A layer with a systematic scale that the other layers do not have.
void find_scale(const KindErrors& kinds, std::optional<Departure>& first) {
  for (const KvKind kind : kKvKinds) {
    const std::vector<LayerErrors>& layers = kinds[static_cast<std::size_t>(kind)];
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      const LayerErrors& errors = layers[layer];
      if (errors.rows.empty()) continue;
      std::vector<double> others;
      for (std::size_t other = 0; other < layers.size(); ++other) {
        if (other != layer && !layers[other].rows.empty()) {
          others.push_back(std::abs(layers[other].scale_error));
        }
      }
      if (others.empty()) continue;
      const double typical = median_of(std::move(others));
      const double scale = std::abs(errors.scale_error);
      const double share = kScaleShare + kScaleDeviations / std::sqrt(errors.elements);
      if (scale <= std::max({errors.quiet, kScaleFactor * typical, share * errors.relative_l2})) {
        continue;
      }
      Departure departure = whole_layer(kind, layer, errors);
      departure.figure = "scale_error";
      departure.measured = scale;
      departure.typical = typical;
      keep_first(first, departure);
      break;
    }
  }
}

double scatter_of(const std::vector<LayerErrors>& layers) {
  std::vector<double> deviations;
  for (const LayerErrors& errors : layers) {
    const double level = errors.octaves(errors.typical);
    for (const Row& row : errors.rows) {
      deviations.push_back(std::abs(errors.octaves(row.error) - level));
    }
  }
  return kNormalDeviation * median_of(std::move(deviations));
}

// A single row far above its layer's median.
void find_row(const KindErrors& kinds, std::optional<Departure>& first) {
  for (const KvKind kind : kKvKinds) {
    const std::vector<LayerErrors>& layers = kinds[static_cast<std::size_t>(kind)];
    const double bound = std::max(kRowOctaves, kRowDeviations * scatter_of(layers));
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      const LayerErrors& errors = layers[layer];
      const double level = errors.octaves(errors.typical);
      for (const Row& row : errors.rows) {
        if (errors.octaves(row.error) - level <= bound) continue;
        keep_first(first, {.kind = kind,
                           .layer = layer,
                           .whole_layer = false,
                           .position = row.position,
                           .figure = "relative_l2",
                           .measured = row.error,
                           .typical = errors.typical});
        break;
      }
    }
  }
}

}  // namespace

std::optional<Departure> find_departure(const KvProfile& profile) {
  if (!profile.measured()) return std::nullopt;
  const KindErrors kinds = collect(profile);
  std::optional<Departure> first;
  find_nonfinite(profile, kinds, first);
  if (is_quiet(kinds, profile.num_positions())) {
    find_first_difference(kinds, first);
  } else {
    find_layer(kinds, first);
    find_scale(kinds, first);
    find_row(kinds, first);
  }
  return first;
}

}  // namespace kvtool::analysis
