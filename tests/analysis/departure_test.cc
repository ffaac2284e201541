// Synthetic profiles: the noise is pseudo-random, the same in every run.
#include "kvtool/analysis/departure.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace kvtool::analysis {
namespace {

using enum KvKind;
constexpr std::uint32_t kHeads = 2;
constexpr double kElements = 64.0;  // of one head's row

// One row of one kind and layer: all heads show the same error.
struct Cell {
  double relative_l2 = 0.0;
  double scale = 0.0;
  bool nonfinite = false;
};

class Rows {
 public:
  Rows(std::size_t layers, std::uint64_t positions) : layers_(layers), positions_(positions) {
    for (std::vector<Cell>& kind : cells_) kind.resize(layers * positions);
  }

  Cell& at(KvKind kind, std::size_t layer, std::uint64_t position) {
    return cells_[static_cast<std::size_t>(kind)][layer * positions_ + position];
  }
  void set_layer(KvKind kind, std::size_t layer, double relative_l2) {
    for (std::uint64_t position = 0; position < positions_; ++position) {
      at(kind, layer, position).relative_l2 = relative_l2;
    }
  }
  // A factor on top of the noise, which is independent of it.
  void scale_layer(KvKind kind, std::size_t layer, double scale) {
    for (std::uint64_t position = 0; position < positions_; ++position) {
      Cell& cell = at(kind, layer, position);
      cell.scale = scale;
      cell.relative_l2 = std::hypot(cell.relative_l2, scale);
    }
  }

  // Grows smoothly from `first` by `growth` over all layers; every row scatters
  // log-normally with a standard deviation of `octaves`.
  Rows& add_noise(double first, double growth, double octaves, std::uint32_t seed = 1) {
    std::mt19937 generator(seed);
    for (std::size_t layer = 0; layer < layers_; ++layer) {
      const double depth =
          static_cast<double>(layer) / static_cast<double>(std::max<std::size_t>(layers_ - 1, 1));
      for (const KvKind kind : kKvKinds) {
        for (std::uint64_t position = 0; position < positions_; ++position) {
          at(kind, layer, position).relative_l2 =
              first * std::pow(growth, depth) * std::exp2(octaves * normal(generator));
        }
      }
    }
    return *this;
  }

  [[nodiscard]] std::optional<Departure> find(DType dtype = DType::kBFloat16) const {
    return find_departure(profile(dtype));
  }

 private:
  // Box-Muller on the generator's own numbers: library distributions differ.
  static double normal(std::mt19937& generator) {
    const double u = (static_cast<double>(generator()) + 1.0) / 4294967296.0;
    const double v = static_cast<double>(generator()) / 4294967296.0;
    return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * 3.14159265358979 * v);
  }

  [[nodiscard]] KvProfile profile(DType dtype) const {
    const double floor = storage_rounding_floor(dtype);
    KvProfile result(std::vector<std::uint32_t>(layers_, kHeads), 16);
    for (const KvKind kind : kKvKinds) {
      for (std::size_t i = 0; i < layers_ * positions_; ++i) {
        const Cell& cell = cells_[static_cast<std::size_t>(kind)][i];
        KvError error;
        error.elements = static_cast<std::uint64_t>(kElements);
        error.differing = cell.relative_l2 > 0.0 ? error.elements : 0;
        error.nonfinite = cell.nonfinite ? 1 : 0;
        error.sum_squared_reference = kElements;
        error.sum_squared_error = kElements * cell.relative_l2 * cell.relative_l2;
        error.sum_error_reference = kElements * cell.scale;
        error.sum_squared_floor = kElements * floor * floor;
        for (std::uint32_t head = 0; head < kHeads; ++head) {
          result.add(kind, i / positions_, head, i % positions_, error);
        }
        result.set_row_error(
            kind, i / positions_, i % positions_,
            cell.nonfinite ? std::numeric_limits<double>::quiet_NaN() : cell.relative_l2);
      }
    }
    return result;
  }

  std::size_t layers_;
  std::uint64_t positions_;
  std::array<std::vector<Cell>, 2> cells_;
};

void expect_row(const std::optional<Departure>& departure, KvKind kind, std::size_t layer,
                std::uint64_t position) {
  ASSERT_TRUE(departure.has_value());
  EXPECT_EQ(departure->kind, kind);
  EXPECT_EQ(departure->layer, layer);
  EXPECT_EQ(departure->position, position);
  EXPECT_FALSE(departure->whole_layer);
  EXPECT_EQ(departure->figure, "relative_l2");
}

void expect_layer(const std::optional<Departure>& departure, KvKind kind, std::size_t layer,
                  const std::string& figure) {
  ASSERT_TRUE(departure.has_value());
  EXPECT_EQ(departure->kind, kind);
  EXPECT_EQ(departure->layer, layer);
  EXPECT_EQ(departure->position, 0U);
  EXPECT_TRUE(departure->whole_layer);
  EXPECT_EQ(departure->figure, figure);
}

TEST(Departure, NothingMeasuredDepartsFromNothing) {
  EXPECT_FALSE(find_departure(KvProfile()).has_value());
  EXPECT_FALSE(find_departure(KvProfile({1, 1}, 16)).has_value());
}

TEST(Departure, BitwiseEqualRowsDepartFromNothing) {
  EXPECT_FALSE(Rows(30, 20).find().has_value());
}

TEST(Departure, OneFaultyRowAmongEqualOnesIsNamed) {
  Rows rows(30, 40);
  rows.at(kValue, 2, 17).relative_l2 = 1e-4;
  const std::optional<Departure> departure = rows.find();
  expect_row(departure, kValue, 2, 17);
  EXPECT_NEAR(departure->measured, 1e-4, 1e-9);
  EXPECT_EQ(departure->typical, 0.0);
}

// What comes after a faulty row is disturbed: later layers at its position, and
// later positions of those layers.
TEST(Departure, FaultOnTheSameDeviceIsWhereTheFirstRowDiffers) {
  Rows rows(30, 40);
  rows.at(kKey, 9, 11).relative_l2 = 0.9;
  for (std::size_t layer = 10; layer < 30; ++layer) {
    for (std::uint64_t position = 11; position < 40; ++position) {
      rows.at(kKey, layer, position).relative_l2 = 0.02;
      rows.at(kValue, layer, position).relative_l2 = 0.05;
    }
  }
  expect_row(rows.find(), kKey, 9, 11);
}

TEST(Departure, ScaledLayerOnTheSameDeviceIsNamedByItsScale) {
  for (const std::size_t faulty : {0U, 2U, 12U}) {
    Rows rows(30, 40);
    rows.scale_layer(kValue, faulty, 0.01);
    for (std::size_t layer = faulty + 1; layer < 30; ++layer) {
      rows.set_layer(kKey, layer, 0.003);
      rows.set_layer(kValue, layer, 0.005);
    }
    const std::optional<Departure> departure = rows.find();
    expect_layer(departure, kValue, faulty, "scale_error");
    EXPECT_NEAR(departure->measured, 0.01, 1e-9);
  }
}

class Noise : public testing::TestWithParam<std::uint32_t> {};

TEST_P(Noise, ThatGrowsSmoothlyDepartsFromNothing) {
  EXPECT_FALSE(Rows(30, 200).add_noise(0.001, 30.0, 1.0, GetParam()).find().has_value());
  EXPECT_FALSE(Rows(30, 200).add_noise(0.005, 5.0, 0.3, GetParam()).find().has_value());
  EXPECT_FALSE(Rows(4, 12).add_noise(0.003, 10.0, 0.7, GetParam()).find().has_value());
  EXPECT_FALSE(
      Rows(30, 200).add_noise(1e-7, 30.0, 1.0, GetParam()).find(DType::kFloat32).has_value());
}

TEST_P(Noise, WithAnEqualFirstLayerDepartsFromNothing) {
  Rows rows(30, 100);
  rows.add_noise(0.001, 30.0, 0.7, GetParam());
  rows.set_layer(kKey, 0, 0.0);
  rows.set_layer(kValue, 0, 0.0);
  EXPECT_FALSE(rows.find().has_value());
}

// Another batch shape on the same device: most steps are bitwise equal, some are
// rounded otherwise.
TEST_P(Noise, OfAFewPositionsDepartsFromNothing) {
  Rows noise(30, 100);
  noise.add_noise(0.001, 20.0, 0.5, GetParam());
  Rows rows(30, 100);
  for (const std::uint64_t position : {7U, 23U, 24U, 90U}) {
    for (std::size_t layer = 1; layer < 30; ++layer) {
      for (const KvKind kind : kKvKinds) {
        rows.at(kind, layer, position) = noise.at(kind, layer, position);
      }
    }
  }
  EXPECT_FALSE(rows.find().has_value());
}

TEST_P(Noise, DoesNotHideAScaledLayer) {
  Rows rows(30, 100);
  rows.add_noise(0.005, 1.0, 0.3, GetParam());
  for (std::size_t layer = 0; layer < 30; ++layer) rows.at(kKey, layer, 0).scale = 0.003;
  rows.scale_layer(kValue, 17, 0.01);
  const std::optional<Departure> departure = rows.find();
  expect_layer(departure, kValue, 17, "scale_error");
  EXPECT_NEAR(departure->measured, 0.01, 1e-9);
  EXPECT_LT(departure->typical, 0.001);
}

TEST_P(Noise, DoesNotHideAStaleRow) {
  Rows rows(30, 100);
  rows.add_noise(0.002, 10.0, 0.4, GetParam());
  rows.at(kKey, 21, 63).relative_l2 = 1.0;
  rows.at(kKey, 4, 64).relative_l2 = 1.0;
  const std::optional<Departure> departure = rows.find();
  expect_row(departure, kKey, 21, 63);
  EXPECT_EQ(departure->measured, 1.0);
  EXPECT_NEAR(departure->typical, 0.01, 0.005);
}

TEST_P(Noise, DoesNotHideAWrongLayerThatDisturbsTheLaterOnes) {
  for (const std::size_t faulty : {0U, 1U, 10U, 29U}) {
    Rows rows(30, 100);
    rows.add_noise(0.002, 5.0, 0.4, GetParam());
    rows.set_layer(kKey, faulty, 1.0);
    for (std::size_t layer = faulty + 1; layer < 30; ++layer) {
      rows.set_layer(kKey, layer, 0.7);
      rows.set_layer(kValue, layer, 0.9);
    }
    const std::optional<Departure> departure = rows.find();
    expect_layer(departure, kKey, faulty, "relative_l2");
    EXPECT_NEAR(departure->measured, 1.0, 1e-6);
    EXPECT_LT(departure->typical, 0.02);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, Noise, testing::Values(1U, 2U, 3U, 4U));

TEST(Departure, NonFiniteRowIsNamed) {
  Rows rows(6, 40);
  rows.add_noise(0.003, 5.0, 0.4);
  rows.at(kValue, 2, 33).nonfinite = true;
  rows.at(kKey, 3, 33).nonfinite = true;
  rows.at(kKey, 0, 35).nonfinite = true;
  const std::optional<Departure> departure = rows.find();
  ASSERT_TRUE(departure.has_value());
  EXPECT_EQ(departure->figure, "nonfinite");
  EXPECT_EQ(departure->kind, kValue);
  EXPECT_EQ(departure->layer, 2U);
  EXPECT_EQ(departure->position, 33U);
  EXPECT_FALSE(departure->whole_layer);
  EXPECT_EQ(departure->measured, kHeads) << "one element in each head";
}

TEST(Departure, LayerOfNanIsNamedAsAWhole) {
  Rows rows(6, 40);
  for (std::uint64_t position = 0; position < 40; ++position) {
    for (std::size_t layer = 4; layer < 6; ++layer) rows.at(kKey, layer, position).nonfinite = true;
  }
  expect_layer(rows.find(), kKey, 4, "nonfinite");
}

TEST(Departure, TheEarlierPositionWinsThenTheLowerLayerThenK) {
  Rows rows(30, 40);
  rows.add_noise(0.003, 3.0, 0.3);
  rows.at(kValue, 20, 8).relative_l2 = 1.0;
  rows.at(kValue, 3, 9).relative_l2 = 1.0;
  expect_row(rows.find(), kValue, 20, 8);
  rows.at(kValue, 19, 8).relative_l2 = 1.0;
  expect_row(rows.find(), kValue, 19, 8);
  rows.at(kKey, 19, 8).relative_l2 = 1.0;
  expect_row(rows.find(), kKey, 19, 8);
}

TEST(Departure, OnePositionCannotMakeAWholeLayer) {
  Rows rows(8, 1);
  rows.add_noise(0.003, 2.0, 0.0);
  rows.at(kKey, 5, 0).relative_l2 = 1.0;
  expect_row(rows.find(), kKey, 5, 0);
}

TEST(Departure, InfiniteErrorAgainstZerosIsNamed) {
  Rows rows(8, 20);
  rows.add_noise(0.003, 2.0, 0.2);
  rows.at(kKey, 5, 7).relative_l2 = std::numeric_limits<double>::infinity();
  const std::optional<Departure> departure = rows.find();
  ASSERT_TRUE(departure.has_value());
  EXPECT_EQ(departure->layer, 5U);
  EXPECT_EQ(departure->position, 7U);
}

}  // namespace
}  // namespace kvtool::analysis
