#include "kvtool/analysis/rerouting.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kvtool/analysis/summary.h"

namespace kvtool::analysis {
namespace {

constexpr std::size_t kLayers = 4;
constexpr std::size_t kPositions = 9;
constexpr double kNoise = 0.01;
const std::vector<bool> kAllRouted(kLayers, true);

// [layer][position]: relative L2 of a row, K and V alike, of one head of 4 elements of 1.
using Errors = std::vector<std::vector<double>>;

Errors noise() { return Errors(kLayers, std::vector<double>(kPositions, kNoise)); }

KvProfile profile_of(const Errors& errors) {
  KvProfile profile(std::vector<std::uint32_t>(errors.size(), 1), 16);
  for (std::size_t layer = 0; layer < errors.size(); ++layer) {
    for (std::size_t position = 0; position < errors[layer].size(); ++position) {
      const double relative = errors[layer][position];
      KvError error;
      error.elements = 4;
      error.sum_squared_reference = 4.0;
      error.sum_squared_error = 4.0 * relative * relative;
      error.sum_squared_floor = 4.0 * std::pow(storage_rounding_floor(DType::kBFloat16), 2.0);
      for (const KvKind kind : kKvKinds) {
        profile.add(kind, layer, 0, position, error);
        profile.set_row_error(kind, layer, position, relative);
      }
    }
  }
  return profile;
}

std::size_t first_layer(const Errors& errors, std::size_t position,
                        const std::vector<bool>& routed = kAllRouted) {
  return rerouted_from(profile_of(errors), routed).at(position);
}

TEST(Rerouting, ExplainsWhatStandsOutFromBehindExpertsToTheLastLayer) {
  Errors errors = noise();
  errors[2][5] = 0.9;
  errors[3][5] = 0.4;
  EXPECT_EQ(first_layer(errors, 5), 2U);
  EXPECT_EQ(first_layer(errors, 4), kLayers);
}

TEST(Rerouting, ExplainsTheLastLayerAlone) {
  Errors errors = noise();
  errors[3][5] = 0.9;
  EXPECT_EQ(first_layer(errors, 5), 3U);
}

// A row that was not written is wrong in its own layer alone.
TEST(Rerouting, DoesNotExplainWhatEndsBeforeTheLastLayer) {
  Errors errors = noise();
  errors[2][5] = 0.9;
  EXPECT_EQ(first_layer(errors, 5), kLayers);
}

// Its echo in the layers behind is far above noise, and far below itself.
TEST(Rerouting, DoesNotExplainWhatFadesBehindItsLayer) {
  Errors errors = noise();
  errors[2][5] = 0.9;
  errors[3][5] = 0.9 / 8.0 - 0.001;
  EXPECT_EQ(first_layer(errors, 5), kLayers);
  errors[3][5] = 0.9 / 8.0 + 0.001;
  EXPECT_EQ(first_layer(errors, 5), 2U);
}

TEST(Rerouting, NeedsExpertsInTheLayerBefore) {
  Errors errors = noise();
  errors[2][5] = errors[3][5] = 0.9;
  EXPECT_EQ(first_layer(errors, 5, {true, false, true, true}), kLayers);
  EXPECT_EQ(first_layer(errors, 5, {false, true, false, false}), 2U);
  EXPECT_EQ(first_layer(errors, 5, {false, true}), 2U);  // the others have none
  EXPECT_EQ(first_layer(errors, 5, {}), kLayers);
}

// Layer 0 reads the embeddings: nothing was routed before it.
TEST(Rerouting, NeverExplainsLayerZero) {
  Errors errors = noise();
  for (std::size_t layer = 0; layer < kLayers; ++layer) errors[layer][5] = 0.9;
  EXPECT_EQ(first_layer(errors, 5), kLayers);
}

TEST(Rerouting, LeavesNoiseAlone) {
  Errors errors = noise();
  errors[2][5] = errors[3][5] = 8.0 * kNoise;  // not above
  EXPECT_EQ(first_layer(errors, 5), kLayers);
  errors[2][5] = errors[3][5] = 8.1 * kNoise;
  EXPECT_EQ(first_layer(errors, 5), 2U);
}

// Where most rows are equal to the bit, a rounding is no outlier: 8 * 2 floors of bf16 are 0.0236.
TEST(Rerouting, TakesTheRoundingFloorForTheLeastNoise) {
  Errors errors(kLayers, std::vector<double>(kPositions, 0.0));
  errors[2][5] = errors[3][5] = 0.023;
  EXPECT_EQ(first_layer(errors, 5), kLayers);
  errors[2][5] = errors[3][5] = 0.024;
  EXPECT_EQ(first_layer(errors, 5), 2U);
}

TEST(Rerouting, NothingMeasuredIsNothingExplained) {
  EXPECT_TRUE(rerouted_from(KvProfile(), kAllRouted).empty());
}

RowComparison with_steps(const Errors& errors) {
  RowComparison row;
  row.tokens.resize(1 + kPositions);
  row.step_kv = profile_of(errors);
  row.recorded_step_rows = kPositions;
  return row;
}

// Two inputs: one reroutes a position, the other has a stale row, which stays in the figure.
TEST(Rerouting, FiguresLeaveOutWhatIsExplained) {
  Errors rerouted = noise();
  rerouted[2][5] = 0.9;
  rerouted[3][5] = 0.7;
  Errors stale = noise();
  stale[1][3] = 0.5;
  RunSummaryBuilder builder(kAllRouted);
  builder.add({1, 0}, 10, format::ReplayMode::kInject, with_steps(rerouted), true);
  Figures figures = figures_of(builder.build());
  EXPECT_FLOAT_EQ(static_cast<float>(figures.at("inject.kv.key.row_max.relative_l2")), 0.9F);
  EXPECT_FLOAT_EQ(static_cast<float>(figures.at("inject.kv.key.unrouted_row_max.relative_l2")),
                  static_cast<float>(kNoise));
  EXPECT_FLOAT_EQ(static_cast<float>(figures.at("inject.kv.value.layer_max.median_row_l2")),
                  static_cast<float>(kNoise));
  EXPECT_DOUBLE_EQ(figures.at("inject.kv.rerouted_rate"), 1.0 / kPositions);

  builder.add({1, 1}, 10, format::ReplayMode::kInject, with_steps(stale), true);
  figures = figures_of(builder.build());
  EXPECT_FLOAT_EQ(static_cast<float>(figures.at("inject.kv.key.unrouted_row_max.relative_l2")),
                  0.5F);
  EXPECT_DOUBLE_EQ(figures.at("inject.kv.rerouted_rate"), 1.0 / (2 * kPositions));
}

TEST(Rerouting, WithoutExpertsEveryRowCounts) {
  Errors errors = noise();
  errors[2][5] = errors[3][5] = 0.9;
  RunSummaryBuilder builder;
  builder.add({1, 0}, 10, format::ReplayMode::kInject, with_steps(errors), true);
  const Figures figures = figures_of(builder.build());
  EXPECT_EQ(figures.at("inject.kv.key.unrouted_row_max.relative_l2"),
            figures.at("inject.kv.key.row_max.relative_l2"));
  EXPECT_EQ(figures.at("inject.kv.rerouted_rate"), 0.0);
}

}  // namespace
}  // namespace kvtool::analysis
