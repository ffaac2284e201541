// What holds for every cache policy of the table.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <limits>

#include "engine/batch_shape.h"
#include "engine/cache/attention.h"
#include "engine/cache/policies.h"
#include "engine/cache/policy_param.h"
#include "engine/cache/slot_rows.h"
#include "engine/turning.h"
#include "kvtool/cache/cache_plan.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

// Two layers of unequal shape, in one dtype.
format::Geometry policy_geometry(DType dtype = DType::kFloat32) {
  return format::Geometry({{dtype, dtype, 2, 8, 6}, {dtype, dtype, 1, 10, 10}});
}

// Rows of very different size, as K/V have.
LayerKv random_rows(const RowLayout& layout, std::int64_t layer, std::int64_t slots) {
  const LayerKv rows = layout.empty_rows(layer, slots, at::kCPU);
  for (const at::Tensor& part : {rows.k, rows.v}) {
    at::Tensor sizes = at::randn({part.size(0), slots, 1}).mul(4).exp();
    part.copy_(at::randn(part.sizes()).mul(sizes).clamp(-60000, 60000));
  }
  return rows;
}

class EveryPolicy : public testing::TestWithParam<PolicyCase> {
 protected:
  EveryPolicy() { at::manual_seed(5); }

  static std::unique_ptr<KvCache> make(const RowLayout& layout, const BatchShape& shape) {
    return cache_maker(spec_of(GetParam()), turning_layers(layout))(layout, shape, at::kCPU);
  }
  // That shows its queries everything.
  static std::unique_ptr<KvCache> make_covering(const RowLayout& layout, const BatchShape& shape) {
    return cache_maker(covering_spec_of(GetParam()), turning_layers(layout))(layout, shape,
                                                                             at::kCPU);
  }

  // Each row of `kept` is `rows` to the precision of the codec: half a step of its integers, or
  // of the significand of its floating point and the least of its numbers.
  static void expect_kept(const at::Tensor& kept, const at::Tensor& rows) {
    const std::uint32_t bits = element_bits(GetParam());
    if (bits == 0) {
      EXPECT_TRUE(kept.equal(rows));
      return;
    }
    const at::Tensor exact = rows.to(at::kDouble);
    if (store_name(GetParam()) == "fp8") {
      const double least = 0x1p-10 * 256;  // with the scale of 60000 / 448
      EXPECT_TRUE(
          ((kept.to(at::kDouble) - exact).abs() <= exact.abs() / 15 + least).all().item<bool>());
      return;
    }
    const at::Tensor largest = exact.abs().amax(-1, /*keepdim=*/true);
    const double half_step = 0.5 / ((1 << (bits - 1)) - 1);
    const double rounding = rows.scalar_type() == at::kFloat ? 1e-5 : 1.0 / 256;
    EXPECT_TRUE(((kept.to(at::kDouble) - exact).abs() <= largest * (half_step + rounding))
                    .all()
                    .item<bool>());
  }

  static void expect_kept(const LayerKv& kept, const LayerKv& rows) {
    expect_kept(kept.k, rows.k);
    expect_kept(kept.v, rows.v);
  }

  // Prompts with the largest numbers that random_rows() gives.
  static void write_prompts(KvCache& cache, const RowLayout& layout, const BatchShape& shape) {
    for (std::int64_t row = 0; row < shape.rows(); ++row) {
      for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
        const LayerKv rows = layout.empty_rows(layer, shape.prompt_length(row), at::kCPU);
        rows.k.fill_(60000);
        rows.v.fill_(60000);
        cache.write({layer, row, {shape.padding(row), shape.prompt_length(row)}}, rows);
      }
    }
  }

  std::vector<std::int32_t> long_{1, 2, 3, 4};
  std::vector<std::int32_t> short_{5};
  std::vector<std::int32_t> middle_{6, 7, 8};
};

TEST_P(EveryPolicy, ReadsBackWhatWasWritten) {
  for (const DType dtype : kDTypes) {
    const RowLayout layout(policy_geometry(dtype));
    const BatchShape shape({long_, short_}, 4, 8);
    const std::unique_ptr<KvCache> kept = make(layout, shape);
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      const LayerKv rows = random_rows(layout, layer, 5);
      kept->write({layer, 1, {3, 5}}, rows);
      const LayerKv back = layout.empty_rows(layer, 5, at::kCPU);
      kept->read({layer, 1, {3, 5}}, back);
      expect_kept(back, rows);
      const LayerKv told = kept->as_kept({layer, 1, {3, 5}}, rows);
      EXPECT_TRUE(told.k.equal(back.k));
      EXPECT_TRUE(told.v.equal(back.v));
    }
  }
}

TEST_P(EveryPolicy, SlotsAndLayersNameTheSameRows) {
  const RowLayout layout(policy_geometry());
  const BatchShape shape({long_, short_}, 4, 8);
  const std::unique_ptr<KvCache> kept = make(layout, shape);
  std::array<std::array<LayerKv, 2>, 2> expected;  // per row and layer
  at::Tensor deltas = at::zeros({2, layout.row_stride_bytes()}, at::kByte);
  for (std::int64_t row = 0; row < 2; ++row) {
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      const LayerKv rows = random_rows(layout, layer, 1);
      const LayerKv target = layout.layer_rows(deltas.narrow(0, row, 1), layer);
      target.k.copy_(rows.k);
      target.v.copy_(rows.v);
      expected[static_cast<std::size_t>(row)][static_cast<std::size_t>(layer)] = rows;
    }
  }
  write_prompts(*kept, layout, shape);
  kept->write_slot(6, deltas, layout, {});
  const at::Tensor back = read_slot(*kept, shape, 6);
  for (std::int64_t row = 0; row < 2; ++row) {
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      const LayerKv& rows =
          expected[static_cast<std::size_t>(row)][static_cast<std::size_t>(layer)];
      const LayerKv read = layout.empty_rows(layer, 1, at::kCPU);
      kept->read({layer, row, {6, 1}}, read);
      expect_kept(read, rows);
      const LayerKv held = layout.layer_rows(back.narrow(0, row, 1), layer);
      EXPECT_TRUE(held.k.equal(read.k));
      EXPECT_TRUE(held.v.equal(read.v));
    }
  }
  // Slots of one row, as a parallel replay loads them.
  kept->write_slots(1, 4, deltas, layout);
  EXPECT_TRUE(read_slot(*kept, shape, 5).select(0, 1).equal(back.select(0, 1)));
}

TEST_P(EveryPolicy, WritesTheNamedRowsAlone) {
  const RowLayout layout(policy_geometry());
  const BatchShape shape({long_, short_}, 4, 8);
  const std::unique_ptr<KvCache> kept = make(layout, shape);
  const at::Tensor ones = at::ones({2, layout.row_stride_bytes() / 4}).view(at::kByte);
  const at::Tensor twos = at::full({2, layout.row_stride_bytes() / 4}, 2.0).view(at::kByte);
  kept->write_slot(5, ones, layout, {});
  kept->write_slot(5, twos, layout, std::array<std::int64_t, 1>{1});
  const LayerKv held = read_layer(*kept, shape, 1, 5);
  EXPECT_TRUE(at::allclose(held.v.select(0, 0), at::ones({1, 1, 10}), 1e-5));
  EXPECT_TRUE(at::allclose(held.v.select(0, 1), at::full({1, 1, 10}, 2.0), 1e-5));
}

// Else what a cache recorded could not be injected into it.
TEST_P(EveryPolicy, KeepsToTheBitWhatItHasReadBack) {
  for (const DType dtype : kDTypes) {
    const RowLayout layout(policy_geometry(dtype));
    const BatchShape shape({long_}, 4, 400);
    const std::unique_ptr<KvCache> kept = make(layout, shape);
    const LayerKv once = kept->as_kept({0, 0, {0, 4000}}, random_rows(layout, 0, 4000));
    const LayerKv twice = kept->as_kept({0, 0, {0, 4000}}, once);
    EXPECT_TRUE(once.k.equal(twice.k)) << dtype_name(dtype);
    EXPECT_TRUE(once.v.equal(twice.v)) << dtype_name(dtype);
  }
}

TEST_P(EveryPolicy, KeepsZerosAndTheSmallestNumbers) {
  for (const DType dtype : kDTypes) {
    const RowLayout layout(policy_geometry(dtype));
    const BatchShape shape({long_}, 4, 8);
    const std::unique_ptr<KvCache> kept = make(layout, shape);
    const LayerKv rows = layout.empty_rows(0, 2, at::kCPU);
    rows.k.zero_();
    rows.v.zero_();
    rows.v.select(1, 1).fill_(dtype == DType::kFloat16 ? 6e-8 : 1e-38);
    const LayerKv once = kept->as_kept({0, 0, {0, 2}}, rows);
    EXPECT_TRUE(once.k.equal(rows.k));
    EXPECT_TRUE(once.v.isfinite().all().item<bool>());
    EXPECT_TRUE(once.v.select(1, 0).equal(rows.v.select(1, 0)));
    EXPECT_TRUE(kept->as_kept({0, 0, {0, 2}}, once).v.equal(once.v));
  }
}

TEST_P(EveryPolicy, WhatIsNotFiniteStaysSo) {
  const RowLayout layout(policy_geometry());
  const BatchShape shape({long_}, 4, 8);
  const std::unique_ptr<KvCache> kept = make(layout, shape);
  for (const double wrong :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const LayerKv rows = random_rows(layout, 0, 2);
    rows.k.select(1, 1).select(0, 1).select(0, 3).fill_(wrong);
    const LayerKv held = kept->as_kept({0, 0, {0, 2}}, rows);
    EXPECT_FALSE(held.k.select(1, 1).select(0, 1).isfinite().all().item<bool>());
    // The other head and the other position have their own scale.
    expect_kept(held.k.select(1, 1).select(0, 0), rows.k.select(1, 1).select(0, 0));
    expect_kept(held.k.select(1, 0), rows.k.select(1, 0));
  }
}

struct LayerProjections {
  at::Tensor q, k, v;  // [B, heads, S, dim], of layer 0 of policy_geometry()
};

LayerProjections random_layer_projections(std::int64_t rows, std::int64_t positions) {
  return {at::randn({rows, 4, positions, 8}), at::randn({rows, 2, positions, 8}),
          at::randn({rows, 2, positions, 6})};
}

at::Tensor attend_layer(KvCache& kept, const LayerProjections& p, std::int64_t window = 0) {
  const std::optional<at::Tensor> sinks;
  return kept.attend({p.q, p.k, p.v, 0, 0.3, window, 0.0, sinks});
}

TEST_P(EveryPolicy, NoQuerySeesPadding) {
  const RowLayout layout(policy_geometry());
  const BatchShape shape({long_, short_}, 4, 8);
  const BatchShape alone({short_}, 1, 8);
  for (const std::int64_t window : {0, 3}) {
    const std::unique_ptr<KvCache> batch = make(layout, shape);
    const std::unique_ptr<KvCache> single = make(layout, alone);
    const LayerProjections prompt = random_layer_projections(2, 4);
    for (const at::Tensor& part : {prompt.q, prompt.k, prompt.v}) {
      part.select(0, 1).narrow(1, 0, 3).fill_(1e4);
    }
    const auto row_alone = [](const LayerProjections& p, std::int64_t first) {
      const auto cut = [&](const at::Tensor& t) {
        return t.narrow(0, 1, 1).narrow(2, first, t.size(2) - first);
      };
      return LayerProjections{cut(p.q), cut(p.k), cut(p.v)};
    };
    batch->begin({0, 4});
    single->begin({0, 1});
    EXPECT_TRUE(at::allclose(attend_layer(*batch, prompt, window).narrow(0, 1, 1).narrow(1, 3, 1),
                             attend_layer(*single, row_alone(prompt, 3), window), 1e-5, 1e-6));
    for (std::int64_t step = 0; step < 4; ++step) {
      batch->begin({4 + step, 1});
      single->begin({1 + step, 1});
      const LayerProjections one = random_layer_projections(2, 1);
      EXPECT_TRUE(at::allclose(attend_layer(*batch, one, window).narrow(0, 1, 1),
                               attend_layer(*single, row_alone(one, 0), window), 1e-5, 1e-6));
    }
  }
}

// What it sees is what can be read, and of that its window. What a selector hides of it is in
// key_selector_test.cc.
TEST_P(EveryPolicy, AQuerySeesTheRowsOfItsWindow) {
  const RowLayout layout(policy_geometry());
  const BatchShape shape({long_}, 4, 12);
  for (const std::int64_t window : {0, 1, 3}) {
    const std::unique_ptr<KvCache> kept = make_covering(layout, shape);
    kept->begin({0, 4});
    attend_layer(*kept, random_layer_projections(1, 4), window);
    for (std::int64_t slot = 4; slot < 12; ++slot) {
      kept->begin({slot, 1});
      const LayerProjections p = random_layer_projections(1, 1);
      const at::Tensor output = attend_layer(*kept, p, window);
      const LayerKv rows = layout.empty_rows(0, slot + 1, at::kCPU);
      kept->read({0, 0, {0, slot + 1}}, rows);
      const at::Tensor expected = causal_attention(p.q, rows.k.unsqueeze(0), rows.v.unsqueeze(0),
                                                   {0.3, window, 0.0, std::nullopt}, std::nullopt);
      EXPECT_TRUE(at::allclose(output, expected.transpose(1, 2), 1e-5, 1e-6));
    }
  }
}

// A query sees rows as they are kept: all of them at once, or one after the other.
TEST_P(EveryPolicy, APassMayBeDivided) {
  const RowLayout layout(policy_geometry());
  const BatchShape shape({long_}, 4, 8);
  const CacheMaker maker = cache_maker(unmeasured_spec_of(GetParam()), turning_layers(layout));
  const std::unique_ptr<KvCache> whole = maker(layout, shape, at::kCPU);
  const std::unique_ptr<KvCache> parts = maker(layout, shape, at::kCPU);
  const LayerProjections p = random_layer_projections(1, 4);
  whole->begin({0, 4});
  const at::Tensor expected = attend_layer(*whole, p);
  for (std::int64_t slot = 0; slot < 4; ++slot) {
    parts->begin({slot, 1});
    const auto cut = [slot](const at::Tensor& t) { return t.narrow(2, slot, 1); };
    EXPECT_TRUE(at::allclose(attend_layer(*parts, {cut(p.q), cut(p.k), cut(p.v)}),
                             expected.narrow(1, slot, 1), 1e-5, 1e-6));
  }
  const LayerKv at_once = layout.empty_rows(0, 4, at::kCPU);
  const LayerKv one_by_one = layout.empty_rows(0, 4, at::kCPU);
  whole->read({0, 0, {0, 4}}, at_once);
  parts->read({0, 0, {0, 4}}, one_by_one);
  EXPECT_TRUE(one_by_one.k.equal(at_once.k));
  EXPECT_TRUE(one_by_one.v.equal(at_once.v));
}

TEST_P(EveryPolicy, RefusesASkippedLayerAndAFullBuffer) {
  const RowLayout layout(policy_geometry());
  const BatchShape shape({long_}, 4, 8);
  const std::unique_ptr<KvCache> kept = make(layout, shape);
  kept->begin({0, 4});
  attend_layer(*kept, random_layer_projections(1, 4));
  const Error skipped = error_of([&] { kept->end(); });
  EXPECT_EQ(skipped.code(), ErrorCode::kIncompatible);
  EXPECT_THAT(skipped.what(), testing::HasSubstr("layer 1"));
  const Error full = error_of([&] { kept->begin({7, 2}); });
  EXPECT_EQ(full.code(), ErrorCode::kMisuse);
  EXPECT_EQ(std::string(full.what()),
            "the cache " + spec_of(GetParam()).to_string() +
                " has room for 8 positions and holds 4: 2 from position 7 on do not fit");
  const Error written = error_of([&] { kept->write({0, 0, {6, 3}}, random_rows(layout, 0, 3)); });
  EXPECT_EQ(written.code(), ErrorCode::kMisuse);
  EXPECT_THAT(written.what(), testing::HasSubstr("holds 4: 3 from position 6 on do not fit"));
}

// Of a prompt and `steps` steps in both layers: what the queries got, then the rows that are kept.
std::vector<at::Tensor> course_of(KvCache& kept, const BatchShape& shape, std::int64_t steps,
                                  double size = 1.0) {
  const RowLayout& layout = kept.layout();
  const std::optional<at::Tensor> sinks;
  std::vector<at::Tensor> course;
  at::manual_seed(3);
  const auto pass = [&](SlotRange slots) {
    kept.begin(slots);
    for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
      const RowLayout::Entry& key = layout.key(layer);
      const RowLayout::Entry& value = layout.value(layer);
      const auto rows = [&](std::int64_t heads, std::int64_t dim) {
        return at::randn({shape.rows(), heads, slots.count, dim}).mul(size).to(key.dtype);
      };
      const at::Tensor output =
          kept.attend({rows(4, key.dim), rows(key.heads, key.dim), rows(value.heads, value.dim),
                       layer, 0.3, 0, 0.0, sinks});
      for (std::int64_t row = 0; row < shape.rows(); ++row) {
        const std::int64_t skipped = std::max<std::int64_t>(0, shape.padding(row) - slots.first);
        course.push_back(output.select(0, row).narrow(0, skipped, slots.count - skipped).clone());
      }
    }
    kept.end();
  };
  pass({0, shape.padded_length()});
  for (std::int64_t step = 0; step < steps; ++step) pass({shape.padded_length() + step, 1});
  for (std::int64_t row = 0; row < shape.rows(); ++row) {
    const SlotRange slots{shape.padding(row), shape.prompt_length(row) + steps};
    for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
      const LayerKv rows = layout.empty_rows(layer, slots.count, at::kCPU);
      kept.read({layer, row, slots}, rows);
      course.push_back(rows.k);
      course.push_back(rows.v);
    }
  }
  return course;
}

// Without what depends on how long something took.
cache::CacheUse without_times(cache::CacheUse use) {
  cache::PageTraffic& pages = use.pages;
  pages.hits += pages.late.value_or(0);
  pages.late = 0;
  pages.inner_hits = 0;
  pages.miss_seconds = pages.late_seconds = pages.write_seconds = 0.0;
  return use;
}

// After a longer run of other prompts, whose numbers would show wherever one is left.
TEST_P(EveryPolicy, OnceItIsClearedItIsAsNew) {
  for (const DType dtype : kDTypes) {
    const RowLayout layout(policy_geometry(dtype));
    const CacheMaker maker = cache_maker(busy_spec_of(GetParam()), turning_layers(layout));
    auto before = std::make_unique<BatchShape>(
        std::vector<std::span<const std::int32_t>>{long_, short_}, 4, 14);
    const BatchShape shape({short_, middle_}, 3, 14);
    const std::unique_ptr<KvCache> kept = maker(layout, *before, at::kCPU);
    const std::unique_ptr<KvCache> fresh = maker(layout, shape, at::kCPU);
    const cache::CacheUse unused = fresh->use();
    const std::vector<at::Tensor> expected = course_of(*fresh, shape, 6);
    course_of(*kept, *before, 10, std::numeric_limits<double>::infinity());
    before.reset();
    for (int round = 0; round < 2; ++round) {
      kept->clear(shape);
      EXPECT_EQ(kept->use(), unused);
      const std::vector<at::Tensor> ours = course_of(*kept, shape, 6);
      EXPECT_EQ(without_times(kept->use()), without_times(fresh->use()));
      ASSERT_EQ(ours.size(), expected.size());
      for (std::size_t index = 0; index < ours.size(); ++index) {
        EXPECT_TRUE(ours[index].isfinite().all().item<bool>()) << dtype_name(dtype) << ' ' << index;
        EXPECT_TRUE(ours[index].equal(expected[index])) << dtype_name(dtype) << ' ' << index;
      }
    }
  }
}

TEST_P(EveryPolicy, IsClearedForABatchOfItsSizeAlone) {
  const RowLayout layout(policy_geometry());
  const BatchShape shape({long_, short_}, 4, 9);
  const std::unique_ptr<KvCache> kept = make(layout, shape);
  for (const BatchShape& other : {BatchShape({long_}, 4, 9), BatchShape({long_, short_}, 4, 8)}) {
    EXPECT_EQ(error_of([&] { kept->clear(other); }).code(), ErrorCode::kMisuse);
  }
}

TEST_P(EveryPolicy, TakesWhatThePlanSays) {
  for (const DType dtype : kDTypes) {
    const RowLayout layout(policy_geometry(dtype));
    const BatchShape shape({long_, short_}, 4, 9);
    const std::unique_ptr<KvCache> kept = make(layout, shape);
    kept->begin({0, 4});
    const cache::CachePlan plan =
        cache::plan_cache(layout.geometry(), {2, 9, 4}, spec_of(GetParam()));
    EXPECT_EQ(kept->use().physical_bytes, plan.peak_bytes());
    kept->begin({4, 1});
    const cache::CacheUse use = kept->use();
    EXPECT_EQ(use.physical_bytes, plan.physical_bytes());
    EXPECT_EQ(use.peak_bytes, plan.peak_bytes());
    EXPECT_EQ(use.places.front().place, "cpu");
    std::uint64_t placed = 0;
    std::uint64_t peaks = 0;
    for (const cache::PlaceBytes& each : use.places) placed += each.bytes;
    EXPECT_EQ(placed, plan.physical_bytes());
    for (const cache::PlaceBytes& each : use.places) peaks += each.peak_bytes;
    EXPECT_EQ(peaks, plan.peak_bytes());
    EXPECT_EQ(use.length, 5U);
    EXPECT_EQ(use.capacity, 9U);
    // 5 positions of one row, 2 of the other.
    EXPECT_EQ(use.logical_bytes, 7 * layout.geometry().position_bytes());
    EXPECT_EQ(use.moved_bytes, 0U);
  }
}

TEST_P(EveryPolicy, KeepsLessWhereItSaysSo) {
  const std::string& name = GetParam().name;
  if (name == "contiguous" || pages_out(GetParam()) || selects(GetParam())) return;
  if (leaves_alone(GetParam(), 0, false) || leaves_alone(GetParam(), 0, true)) return;
  const RowLayout layout(format::Geometry(
      std::vector<format::LayerGeometry>(16, {DType::kBFloat16, DType::kBFloat16, 2, 64, 64})));
  const BatchShape shape({long_}, 4, 1000);
  const std::unique_ptr<KvCache> kept = make(layout, shape);
  kept->begin({0, 999});
  kept->begin({999, 1});
  EXPECT_LT(kept->use().physical_bytes, kept->use().logical_bytes * 3 / 4);
}

INSTANTIATE_TEST_SUITE_P(Policies, EveryPolicy, testing::ValuesIn(policy_cases()), name_of_policy);

TEST(CacheMaker, RefusesAPolicyThatTheEngineLacks) {
  constexpr std::array kOthers = {cache::PolicyInfo{"elsewhere", "of a test", {}}};
  const cache::CacheSpec spec = cache::CacheSpec::parse("elsewhere", kOthers);
  EXPECT_EQ(error_of([&] { std::ignore = cache_maker(spec); }).code(), ErrorCode::kMisuse);
}

TEST(Int8, RefusesRowsOfEightBits) {
  const RowLayout layout(policy_geometry(DType::kFloat8E4M3));
  const std::vector<std::int32_t> prompt{1};
  const BatchShape shape({prompt}, 1, 2);
  const CacheMaker make = cache_maker(cache::CacheSpec::parse("int8"));
  const Error error = error_of([&] { std::ignore = make(layout, shape, at::kCPU); });
  EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
  EXPECT_THAT(error.what(), testing::HasSubstr("Float8_e4m3fn"));
}

}  // namespace
}  // namespace kvtool::engine
