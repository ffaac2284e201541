// What a query sees under a window whose keys have the positions of the cache, against attention
// over a list of the keys that are left, one query and head at a time (docs/caches.md).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "engine/batch_shape.h"
#include "engine/cache/parallel_cache.h"
#include "engine/cache/policies.h"
#include "engine/cache/selection/key_turn.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

constexpr std::int64_t kSinks = 2;
constexpr std::int64_t kRecent = 4;
constexpr double kScale = 0.4;
constexpr std::int64_t kGroup = 3;  // query heads of a K/V head
constexpr const char* kSpec = "window:sinks=2,recent=4,positions=cache";

// How layers turn: the first in halves, some channels of the second side by side, the third not.
KeyRotations three_rotations() {
  const auto rotation = [](KeyRotation made) { return std::make_shared<KeyRotation>(made); };
  return {{rotation({0, 8, KeyRotation::Pairing::kHalves, {1.0, 0.3, 0.1, 0.01}}),
           rotation({2, 4, KeyRotation::Pairing::kInterleaved, {-0.7, 0.2}}), nullptr},
          ""};
}

struct TurnedRows {
  at::Tensor q, k, v;  // [B, heads, positions, dim]

  [[nodiscard]] TurnedRows cut(std::int64_t row, std::int64_t rows, std::int64_t first,
                               std::int64_t count) const {
    const auto part = [&](const at::Tensor& t) {
      return t.narrow(0, row, rows).narrow(2, first, count);
    };
    return {part(q), part(k), part(v)};
  }
};

struct TurnedLayerAsks {
  std::int64_t layer = 0;
  std::int64_t window = 0;
  double softcap = 0.0;
  std::optional<at::Tensor> sinks = std::nullopt;
};

std::vector<double> doubles_of(const at::Tensor& row) {
  const at::Tensor exact = row.to(at::kDouble).contiguous();
  const double* first = exact.const_data_ptr<double>();
  return {first, first + exact.numel()};
}

std::vector<double> turned_by(std::vector<double> key, const KeyRotation* rotation,
                              std::int64_t by) {
  if (rotation == nullptr) return key;
  const auto offset = static_cast<std::size_t>(rotation->offset);
  const auto pairs = static_cast<std::size_t>(rotation->dims) / 2;
  for (std::size_t pair = 0; pair < pairs; ++pair) {
    const bool halves = rotation->pairing == KeyRotation::Pairing::kHalves;
    double& a = key[offset + (halves ? pair : 2 * pair)];
    double& b = key[offset + (halves ? pair + pairs : 2 * pair + 1)];
    const double angle = static_cast<double>(by) * rotation->inv_freq[pair];
    const double before = a;
    a = a * std::cos(angle) - b * std::sin(angle);
    b = b * std::cos(angle) + before * std::sin(angle);
  }
  return key;
}

// The keys that a cache of sinks and recent ones holds for the query at `position`, by the place
// that each has there.
std::vector<std::int64_t> held_by_cache(std::int64_t position) {
  std::vector<std::int64_t> held;
  for (std::int64_t key = 0; key <= position; ++key) {
    if (key < kSinks || position - key < kRecent) held.push_back(key);
  }
  return held;
}

// Of one query head at `position` of one input: [value dim].
at::Tensor attended(const TurnedRows& input, std::int64_t head, std::int64_t position,
                    const TurnedLayerAsks& asks) {
  const KeyRotations rotations = three_rotations();
  const KeyRotation* rotation = rotations.layers[static_cast<std::size_t>(asks.layer)].get();
  const std::vector<std::int64_t> held = held_by_cache(position);
  const std::vector<double> q = doubles_of(input.q[0][head][position]);
  std::vector<double> weights;
  double total = asks.sinks ? std::exp((*asks.sinks)[head].item<double>()) : 0.0;
  for (std::size_t place = 0; place < held.size(); ++place) {
    const auto distance = static_cast<std::int64_t>(held.size() - 1 - place);
    const std::vector<double> key = turned_by(doubles_of(input.k[0][head / kGroup][held[place]]),
                                              rotation, position - held[place] - distance);
    double score = 0.0;
    for (std::size_t channel = 0; channel < q.size(); ++channel) score += q[channel] * key[channel];
    score *= kScale;
    if (asks.softcap > 0.0) score = asks.softcap * std::tanh(score / asks.softcap);
    const bool seen = asks.window == 0 || distance < asks.window;
    weights.push_back(seen ? std::exp(score) : 0.0);
    total += weights.back();
  }
  at::Tensor output = at::zeros({input.v.size(3)}, at::kDouble);
  for (std::size_t place = 0; place < held.size(); ++place) {
    output += input.v[0][head / kGroup][held[place]].to(at::kDouble) * (weights[place] / total);
  }
  return output.to(at::kFloat);
}

class ClosingWindowTest : public testing::Test {
 protected:
  ClosingWindowTest() { at::manual_seed(23); }

  static TurnedRows random_rows(std::int64_t rows, std::int64_t positions) {
    return {at::randn({rows, 6, positions, 8}), at::randn({rows, 2, positions, 8}),
            at::randn({rows, 2, positions, 6})};
  }

  [[nodiscard]] std::unique_ptr<KvCache> make(const BatchShape& shape,
                                              const std::string& spec = kSpec) const {
    return cache_maker(cache::CacheSpec::parse(spec), three_rotations())(layout_, shape, at::kCPU);
  }

  static at::Tensor attend(KvCache& cache, SlotRange slots, const TurnedRows& rows,
                           const TurnedLayerAsks& asks) {
    cache.begin(slots);
    return cache.attend(
        {rows.q, rows.k, rows.v, asks.layer, kScale, asks.window, asks.softcap, asks.sinks});
  }

  // [1, count, heads, value dim], as attend() gives it.
  static void expect_attended(const at::Tensor& actual, const TurnedRows& input, std::int64_t first,
                              const TurnedLayerAsks& asks) {
    for (std::int64_t query = 0; query < actual.size(1); ++query) {
      for (std::int64_t head = 0; head < 6; ++head) {
        EXPECT_TRUE(at::allclose(actual[0][query][head], attended(input, head, first + query, asks),
                                 1e-5, 1e-5))
            << "layer " << asks.layer << ", window " << asks.window << ", position "
            << first + query << ", head " << head;
      }
    }
  }

  // 5 lies between the recent keys and all that the cache holds, 6 is all of it.
  static std::vector<TurnedLayerAsks> all_asks() {
    return {{0, 0},
            {1, 0},
            {2, 0},
            {0, 3},
            {0, 4},
            {0, 5},
            {1, 5},
            {0, 6},
            {2, 6},
            {0, 11},
            {2, 5},
            {0, 0, 2.0},
            {1, 11, 0.0, at::randn({6})},
            {0, 5, 1.5, at::randn({6})}};
  }

  RowLayout layout_{format::Geometry(
      std::vector<format::LayerGeometry>(3, {DType::kFloat32, DType::kFloat32, 2, 8, 6}))};
  std::vector<std::int32_t> prompt_ = std::vector<std::int32_t>(13, 1);
  std::vector<std::int32_t> short_ = std::vector<std::int32_t>(3, 1);
};

TEST_F(ClosingWindowTest, AQuerySeesTheKeysWhereTheyStandInTheCache) {
  const BatchShape shape({prompt_}, 13, 30);
  const TurnedRows input = random_rows(1, 30);
  for (const TurnedLayerAsks& asks : all_asks()) {
    const std::unique_ptr<KvCache> kept = make(shape);
    expect_attended(attend(*kept, {0, 13}, input.cut(0, 1, 0, 13), asks), input, 0, asks);
    for (std::int64_t position = 13; position < 20; ++position) {
      expect_attended(attend(*kept, {position, 1}, input.cut(0, 1, position, 1), asks), input,
                      position, asks);
    }
    // Several behind others.
    expect_attended(attend(*kept, {20, 10}, input.cut(0, 1, 20, 10), asks), input, 20, asks);
    const cache::CacheUse use = kept->use();
    const auto most =
        static_cast<std::uint64_t>(asks.window == 0 ? 6 : std::min<std::int64_t>(6, asks.window));
    EXPECT_EQ(use.seen_keys, 17 * most) << asks.window;
  }
}

// More queries than one block of them has.
TEST_F(ClosingWindowTest, ALongPromptSeesWhatItsPositionsSeeOneByOne) {
  const BatchShape shape({prompt_}, 13, 600);
  const TurnedRows input = random_rows(1, 600);
  for (const TurnedLayerAsks& asks : {TurnedLayerAsks{0, 0}, TurnedLayerAsks{1, 5, 2.0}}) {
    const at::Tensor whole = attend(*make(shape), {0, 600}, input, asks);
    const std::unique_ptr<KvCache> parts = make(shape);
    for (std::int64_t position = 0; position < 600; ++position) {
      const at::Tensor one = attend(*parts, {position, 1}, input.cut(0, 1, position, 1), asks);
      EXPECT_TRUE(at::allclose(one, whole.narrow(1, position, 1), 1e-4, 1e-5)) << position;
    }
  }
}

TEST_F(ClosingWindowTest, ARowOfAPaddedBatchSeesWhatItSeesAlone) {
  const BatchShape shape({prompt_, short_}, 13, 30);
  const BatchShape alone({short_}, 3, 20);
  const TurnedRows input = random_rows(2, 30);
  const std::unique_ptr<KvCache> batch = make(shape);
  const std::unique_ptr<KvCache> single = make(alone);
  const at::Tensor prompt = attend(*batch, {0, 13}, input.cut(0, 2, 0, 13), {});
  EXPECT_TRUE(at::allclose(prompt.narrow(0, 1, 1).narrow(1, 10, 3),
                           attend(*single, {0, 3}, input.cut(1, 1, 10, 3), {}), 1e-5, 1e-6));
  for (std::int64_t slot = 13; slot < 30; ++slot) {
    const at::Tensor both = attend(*batch, {slot, 1}, input.cut(0, 2, slot, 1), {});
    EXPECT_TRUE(at::allclose(both.narrow(0, 1, 1),
                             attend(*single, {slot - 10, 1}, input.cut(1, 1, slot, 1), {}), 1e-5,
                             1e-6));
    expect_attended(both.narrow(0, 0, 1), input.cut(0, 1, 0, 30), slot, {});
  }
}

// The recorded keys and the own key of each step differ.
TEST_F(ClosingWindowTest, StepsInParallelSeeWhatStepsSee) {
  const TurnedRows input = random_rows(1, 30);
  const TurnedRows recorded = random_rows(1, 30);
  const auto make_cache = cache_maker(cache::CacheSpec::parse(kSpec), three_rotations());
  for (const TurnedLayerAsks& asks : all_asks()) {
    ParallelRow row(layout_, prompt_, 17, at::kCPU, make_cache);
    row.cache->write({asks.layer, 0, {0, 30}}, {recorded.k[0], recorded.v[0]});
    const ParallelPiece piece{&row, 0, 0, 0, 17, true};
    ParallelCache cache(layout_);
    const at::Tensor rows = at::empty({17, layout_.row_stride_bytes()}, at::kByte);
    cache.begin(std::span(&piece, 1), rows, ParallelCache::Queries::kTogether);
    const TurnedRows steps = input.cut(0, 1, 13, 17);
    const at::Tensor actual = cache.attend(
        {steps.q, steps.k, steps.v, asks.layer, kScale, asks.window, asks.softcap, asks.sinks});
    for (std::int64_t step = 0; step < 17; ++step) {
      TurnedRows seen{input.q, recorded.k.clone(), recorded.v.clone()};
      seen.k.select(2, 13 + step).copy_(input.k.select(2, 13 + step));
      seen.v.select(2, 13 + step).copy_(input.v.select(2, 13 + step));
      expect_attended(actual.narrow(1, step, 1), seen, 13 + step, asks);
    }
  }
}

TEST_F(ClosingWindowTest, KeysAreRoundedOnceToTheModelsType) {
  const KeyTurn turn(*three_rotations().layers[0], at::kCPU);
  const at::Tensor rows = at::randn({2, 5, 8}).to(at::kBFloat16);
  const at::Tensor turned = turn.keys(rows, 1000);
  ASSERT_EQ(turned.scalar_type(), at::kBFloat16);
  for (std::int64_t row = 0; row < 5; ++row) {
    const std::vector<double> exact =
        turned_by(doubles_of(rows[1][row]), three_rotations().layers[0].get(), 1000);
    EXPECT_TRUE(at::allclose(turned[1][row].to(at::kDouble), at::tensor(exact, at::kDouble),
                             1.0 / 256, 1e-6));
  }
  EXPECT_TRUE(turn.keys(rows, 0).equal(rows));
}

TEST_F(ClosingWindowTest, AModelWhoseKeysDoNotTurnIsRefusedWithTheReason) {
  const cache::CacheSpec spec = cache::CacheSpec::parse(kSpec);
  const Error error = error_of(
      [&] { std::ignore = cache_maker(spec, {{}, "org/m: it adds its positions to (wpe)"}); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), testing::HasSubstr("org/m: it adds its positions to (wpe)"));
  EXPECT_THAT(error.what(), testing::HasSubstr("use positions=original"));
  // A window that does not turn them needs no rotations.
  std::ignore = cache_maker(cache::CacheSpec::parse("window"), {{}, "none"});
}

}  // namespace
}  // namespace kvtool::engine
