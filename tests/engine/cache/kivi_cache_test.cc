// The cache kivi: what it quantizes, when, and that everything else sees just that.
#include "engine/cache/codecs/kivi_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "engine/cache/attention.h"
#include "engine/cache/policies.h"
#include "engine/cache/slot_rows.h"
#include "engine/toy_run.h"
#include "engine/toy_state.h"
#include "kvtool/cache/cache_plan.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

using format::ReplayMode;

cache::CacheSpec kivi(const std::string& options) {
  return cache::CacheSpec::parse("kivi:" + options);
}

// One layer: 2 heads, K of 8 and V of 6 numbers.
format::Geometry one_layer() {
  return format::Geometry({{DType::kFloat32, DType::kFloat32, 2, 8, 6}});
}

TEST(KiviSettled, FollowsFromTheNumberOfPositions) {
  const cache::KiviSettings settings = cache::kivi_settings(kivi("group=4,residual=3,sinks=2"));
  // 2 sinks, a group of 4, 3 that stay whole: the first group goes with position 9.
  EXPECT_EQ(settings.settled(0), 0U);
  EXPECT_EQ(settings.settled(8), 0U);
  EXPECT_EQ(settings.settled(9), 6U);
  EXPECT_EQ(settings.settled(12), 6U);
  EXPECT_EQ(settings.settled(13), 10U);
  // A step's own row stays whole in its pass.
  const cache::KiviSettings least = cache::kivi_settings(kivi("group=1,residual=0"));
  EXPECT_EQ(least.settled(1), 0U);
  EXPECT_EQ(least.settled(2), 1U);
}

TEST(KiviSettled, RefusesGroupsOfNothing) {
  const Error error = error_of([] { std::ignore = kivi("group=0"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), testing::HasSubstr("'group' is at least 1"));
}

// Drives a cache as a run does, and remembers all rows as they were made.
class KiviPasses {
 public:
  explicit KiviPasses(const std::string& options, std::int64_t capacity = 40)
      : layout_(one_layer()),
        shape_({long_, short_}, 12, capacity),
        cache_(cache::kivi_settings(kivi(options)), layout_, shape_, at::kCPU) {
    at::manual_seed(9);
  }

  // Returns what attention gave, [B, S, Hq, Dv].
  at::Tensor pass(std::int64_t count) {
    const LayerKv rows{at::randn({2, 2, count, 8}), at::randn({2, 2, count, 6})};
    q_ = at::randn({2, 4, count, 8});
    cache_.begin({end_, count});
    const std::optional<at::Tensor> sinks;
    at::Tensor output = cache_.attend({q_, rows.k, rows.v, 0, 0.3, 0, 0.0, sinks});
    cache_.end();
    made_ = made_.k.defined()
                ? LayerKv{at::cat({made_.k, rows.k}, 2), at::cat({made_.v, rows.v}, 2)}
                : rows;
    end_ += count;
    return output;
  }

  // Of one row, without padding: [heads, positions, dim].
  [[nodiscard]] LayerKv made(std::int64_t row) const {
    return row_slots(made_, row, {shape_.padding(row), end_ - shape_.padding(row)});
  }
  [[nodiscard]] LayerKv held(std::int64_t row) const {
    const LayerKv rows = layout_.empty_rows(0, end_ - shape_.padding(row), at::kCPU);
    cache_.read({0, row, {shape_.padding(row), rows.k.size(1)}}, rows);
    return rows;
  }

  KiviCache& cache() { return cache_; }
  const BatchShape& shape() const { return shape_; }
  const at::Tensor& q() const { return q_; }

 private:
  std::vector<std::int32_t> long_ = std::vector<std::int32_t>(12, 1);
  std::vector<std::int32_t> short_ = std::vector<std::int32_t>(7, 1);
  RowLayout layout_;
  BatchShape shape_;
  KiviCache cache_;
  at::Tensor q_;
  LayerKv made_;
  std::int64_t end_ = 0;
};

// What a state of so many positions holds: groups of 4 by the codecs, all else as it was made.
LayerKv expected_state(const LayerKv& made, std::int64_t sinks, std::int64_t settled) {
  LayerKv state{made.k.clone(), made.v.clone()};
  if (settled == 0) return state;
  const auto quantize = [&](GroupAxis axis, const at::Tensor& rows) {
    const GroupCodec codec(axis, 4, 4);
    const at::Tensor old = rows.narrow(1, sinks, settled - sinks);
    const CodedGroups coded = codec.allocate({2}, settled - sinks, rows.size(2), at::kCPU);
    codec.encode(old, coded);
    codec.decode(coded, 0, old);
  };
  quantize(GroupAxis::kPositions, state.k);
  quantize(GroupAxis::kChannels, state.v);
  return state;
}

TEST(KiviCache, QuantizesEachGroupOnceItIsOldEnough) {
  for (const std::int64_t sinks : {0, 2}) {
    KiviPasses passes("group=4,residual=3,sinks=" + std::to_string(sinks));
    const cache::KiviSettings settings =
        cache::kivi_settings(kivi("group=4,residual=3,sinks=" + std::to_string(sinks)));
    passes.pass(12);
    for (std::int64_t step = 0; step <= 28; ++step) {
      for (const std::int64_t row : {0, 1}) {
        const LayerKv made = passes.made(row);
        // A pass ends with its own rows as it made them, those of a prompt, too.
        const std::int64_t settled = step == 0 ? 0
                                               : static_cast<std::int64_t>(settings.settled(
                                                     static_cast<std::uint64_t>(made.k.size(1))));
        const LayerKv expected = expected_state(made, sinks, settled);
        EXPECT_TRUE(passes.held(row).k.equal(expected.k)) << step;
        EXPECT_TRUE(passes.held(row).v.equal(expected.v)) << step;
      }
      if (step < 28) passes.pass(1);
    }
    // 40 positions less 3 to 6 that are whole and the sinks, and 35 of the other row.
    const std::uint64_t old = settings.settled(40) + settings.settled(35) - 2 * settings.sinks;
    EXPECT_EQ(passes.cache().use().applied_rows, old);
  }
}

// K or V alone, or nothing in a layer that is not named.
TEST(KiviCache, KeepsAsItWasMadeWhatIsNotToBeInGroups) {
  for (const std::string part : {"k=none", "v=none", "layers=1"}) {
    const std::string options = "group=4,residual=3,sinks=2," + part;
    if (part == "layers=1") {
      const Error error = error_of([&] { KiviPasses passes(options); });
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      EXPECT_THAT(error.what(), testing::HasSubstr("names layer 1, and the model's are 0 to 0"));
      continue;
    }
    KiviPasses passes(options);
    passes.pass(12);
    for (std::int64_t step = 0; step < 10; ++step) passes.pass(1);
    const LayerKv made = passes.made(0);
    const LayerKv coded = expected_state(made, 2, 18);
    EXPECT_TRUE(passes.held(0).k.equal(part == "k=none" ? made.k : coded.k)) << part;
    EXPECT_TRUE(passes.held(0).v.equal(part == "v=none" ? made.v : coded.v)) << part;
    EXPECT_FALSE(made.k.equal(coded.k));
    EXPECT_FALSE(made.v.equal(coded.v));
  }
}

TEST(KiviSettled, RefusesToKeepEverythingAsItWasMade) {
  const Error error = error_of([] { std::ignore = kivi("k=none,v=none"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), testing::HasSubstr("use contiguous"));
}

TEST(KiviCache, AQuerySeesWhatIsHeld) {
  KiviPasses passes("group=4,residual=3,sinks=1");
  passes.pass(12);
  for (std::int64_t step = 0; step < 20; ++step) {
    const at::Tensor output = passes.pass(1);
    for (const std::int64_t row : {0, 1}) {
      const LayerKv held = passes.held(row);
      const at::Tensor expected =
          causal_attention(passes.q().narrow(0, row, 1), held.k.unsqueeze(0), held.v.unsqueeze(0),
                           {0.3, 0, 0.0, std::nullopt}, std::nullopt);
      EXPECT_TRUE(at::allclose(output.narrow(0, row, 1), expected.transpose(1, 2), 1e-5, 1e-6));
    }
  }
}

TEST(KiviCache, APromptMayComeInParts) {
  KiviPasses parts("group=4,residual=3,sinks=1");
  parts.pass(12);
  parts.pass(9);
  parts.pass(2);
  parts.pass(1);
  const LayerKv made = parts.made(0);
  const LayerKv expected = expected_state(made, 1, 21);
  EXPECT_TRUE(parts.held(0).k.equal(expected.k));
  EXPECT_TRUE(parts.held(0).v.equal(expected.v));
}

TEST(KiviCache, TakesNoRowsThatItHasQuantized) {
  KiviPasses passes("group=4,residual=3");
  passes.pass(12);
  passes.pass(1);
  const LayerKv one{at::zeros({2, 1, 8}), at::zeros({2, 1, 6})};
  passes.cache().write({0, 0, {8, 1}}, one);
  const Error error = error_of([&] { passes.cache().write({0, 0, {7, 1}}, one); });
  EXPECT_EQ(error.code(), ErrorCode::kMisuse);
  EXPECT_THAT(error.what(), testing::HasSubstr("before slot 8"));
}

TEST(KiviCache, ItsRoomForThePromptGoesWithTheFirstStep) {
  KiviPasses passes("group=4,residual=3", 400);
  passes.pass(300);
  const std::uint64_t before = passes.cache().use().physical_bytes;
  passes.pass(1);
  const cache::CacheUse after = passes.cache().use();
  EXPECT_EQ(before - after.physical_bytes, 2U * 300 * one_layer().position_bytes());
  EXPECT_EQ(after.peak_bytes, before);
}

// Of two layers, each with 2 heads, K of 8 and V of 6 float32 numbers: 16 positions of 20 are old.
TEST(KiviPlan, CountsWhatIsKeptAsItWasMade) {
  const format::LayerGeometry layer{DType::kFloat32, DType::kFloat32, 2, 8, 6};
  const format::Geometry geometry({layer, layer});
  const auto kept = [&](const std::string& options) {
    return cache::plan_cache(geometry, {1, 20}, kivi("group=4,residual=4," + options)).kept_bytes;
  };
  const std::uint64_t coded_keys = 16 * 2 * 4 + 4 * 2 * 8 * 3;     // 4 bits, 4 groups of 3 bytes
  const std::uint64_t coded_values = 16 * 2 * 3 + 16 * 2 * 2 * 3;  // likewise, 2 groups a position
  const std::uint64_t keys = 16 * 2 * 8 * 4;
  const std::uint64_t values = 16 * 2 * 6 * 4;
  const std::uint64_t recent = 2 * 8 * 2 * (8 + 6) * 4;  // residual and a group, of both layers
  EXPECT_EQ(kept("layers=all"), recent + 2 * (coded_keys + coded_values));
  EXPECT_EQ(kept("layers=1"), recent + coded_keys + coded_values + keys + values);
  EXPECT_EQ(kept("k=none"), recent + 2 * (keys + coded_values));
  EXPECT_EQ(kept("v=none,layers=0"), recent + coded_keys + values + keys + values);
}

// Beside the scales, four bits of sixteen: what the packed rows of a long context take.
TEST(KiviPlan, FourBitsTakeLessThanThreeTenths) {
  const format::Geometry geometry(
      std::vector<format::LayerGeometry>(32, {DType::kBFloat16, DType::kBFloat16, 8, 128, 128}));
  const std::uint64_t long_context = 131072;
  const cache::CachePlan plan = cache::plan_cache(geometry, {1, long_context}, kivi("k=4,v=4"));
  const double share =
      static_cast<double>(plan.kept_bytes) / static_cast<double>(plan.logical_bytes);
  EXPECT_LT(share, 0.30);
  EXPECT_GT(share, 4.75 / 16);
}

// A residual that covers the context leaves nothing to do.
TEST(KiviRun, ALargeResidualIsContiguousToTheBit) {
  TorchModel model = toy_model();
  const Rows plain = record(model, 20);
  const Rows recorded = record(model, 20, kivi("group=4,residual=30"));
  for (std::size_t row = 0; row < 2; ++row) {
    EXPECT_EQ(recorded[row]->deltas, plain[row]->deltas);
    EXPECT_EQ(recorded[row]->final_values, plain[row]->final_values);
    for (std::size_t step = 0; step < 19; ++step) {
      EXPECT_EQ(recorded[row]->steps[step].logits_digest, plain[row]->steps[step].logits_digest);
    }
  }
}

TEST(KiviRun, RepeatsItsOwnGenerationToTheBitInEveryMode) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    TorchModel model = toy_model(dtype);
    const cache::CacheSpec spec = kivi("k=2,v=2,group=4,residual=2,sinks=1");
    const Rows recorded = record(model, 24, spec);
    const Rows plain = record(model, 24);
    EXPECT_NE(recorded[0]->deltas, plain[0]->deltas);
    for (const ReplayMode mode : {ReplayMode::kInject, ReplayMode::kForced, ReplayMode::kFree}) {
      const Replayed replayed = run(model, recorded, replay_options(mode, spec, false));
      for (std::size_t row = 0; row < 2; ++row) {
        EXPECT_EQ(replayed.rows[row]->deltas, recorded[row]->deltas);
        EXPECT_EQ(replayed.rows[row]->final_keys, recorded[row]->final_keys);
        EXPECT_EQ(replayed.rows[row]->final_values, recorded[row]->final_values);
      }
    }
  }
}

// All steps at once read what each of them would have read.
TEST(KiviRun, InParallelEachStepSeesItsOwnState) {
  TorchModel model = toy_model();
  const cache::CacheSpec spec = kivi("k=2,v=2,group=4,residual=2,sinks=1");
  const Rows recorded = record(model, 24);  // another cache's
  for (const ReplayMode mode : {ReplayMode::kInject, ReplayMode::kForced}) {
    const Replayed steps = run(model, recorded, replay_options(mode, spec, false));
    const Replayed at_once = run(model, recorded, replay_options(mode, spec, true));
    const Replayed whole = run(model, recorded, replay_options(mode, cache::CacheSpec(), true));
    EXPECT_EQ(at_once.result.cache_use.applied_rows, steps.result.cache_use.applied_rows);
    for (std::size_t row = 0; row < 2; ++row) {
      EXPECT_NE(at_once.rows[row]->deltas, whole.rows[row]->deltas);
      for (std::int64_t layer = 0; layer < 2; ++layer) {
        for (const bool value : {false, true}) {
          EXPECT_TRUE(at::allclose(told_state(*at_once.rows[row], layer, value),
                                   told_state(*steps.rows[row], layer, value), 1e-4, 1e-5));
          EXPECT_TRUE(at::allclose(final_state(*at_once.rows[row], layer, value),
                                   final_state(*steps.rows[row], layer, value), 1e-4, 1e-5));
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvtool::engine
