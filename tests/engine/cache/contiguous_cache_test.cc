#include "engine/cache/contiguous_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "engine/batch_run.h"
#include "engine/cache/slot_rows.h"
#include "kvtool/base/error.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

constexpr std::int64_t kHeads = 2;
constexpr std::int64_t kDim = 8;

format::Geometry geometry(DType key = DType::kFloat32, DType value = DType::kFloat32) {
  return format::Geometry(std::vector<format::LayerGeometry>(
      2, {key, value, static_cast<std::uint32_t>(kHeads), static_cast<std::uint32_t>(kDim),
          static_cast<std::uint32_t>(kDim)}));
}

struct Projections {
  at::Tensor q, k, v;  // [B, heads, S, dim]
};

Projections random_projections(std::int64_t rows, std::int64_t positions) {
  return {at::randn({rows, 2 * kHeads, positions, kDim}),
          at::randn({rows, kHeads, positions, kDim}), at::randn({rows, kHeads, positions, kDim})};
}

at::Tensor attend(ContiguousCache& cache, const Projections& p, std::int64_t layer) {
  const std::optional<at::Tensor> sinks;
  return cache.attend({p.q, p.k, p.v, layer, 0.3, 0, 0.0, sinks});
}

Projections row_of(const Projections& p, std::int64_t row, std::int64_t first) {
  const auto cut = [&](const at::Tensor& t) {
    return t.narrow(0, row, 1).narrow(2, first, t.size(2) - first);
  };
  return {cut(p.q), cut(p.k), cut(p.v)};
}

TEST(ContiguousCache, PaddedBatchEqualsItsRowsAlone) {
  at::manual_seed(1);
  const RowLayout layout(geometry());
  const std::vector<std::int32_t> full{1, 2, 3, 4, 5};
  const std::vector<std::span<const std::int32_t>> prompts{
      std::span(full), std::span(full).first(2), std::span(full).first(1)};
  const BatchShape shape(prompts, 5, 8);
  ContiguousCache batch(layout, shape, at::kCPU);
  const Projections prompt = random_projections(3, 5);
  const Projections step = random_projections(3, 1);
  batch.begin({0, 5});
  const at::Tensor prompt_out = attend(batch, prompt, 1);
  batch.begin({5, 1});
  const at::Tensor step_out = attend(batch, step, 1);
  for (std::int64_t row = 0; row < 3; ++row) {
    const BatchShape alone({prompts[static_cast<std::size_t>(row)]}, shape.prompt_length(row), 8);
    ContiguousCache single(layout, alone, at::kCPU);
    single.begin({0, shape.prompt_length(row)});
    const at::Tensor expected = attend(single, row_of(prompt, row, shape.padding(row)), 1);
    EXPECT_TRUE(at::allclose(
        prompt_out.narrow(0, row, 1).narrow(1, shape.padding(row), shape.prompt_length(row)),
        expected, 1e-5, 1e-6));
    single.begin({shape.prompt_length(row), 1});
    EXPECT_TRUE(at::allclose(step_out.narrow(0, row, 1), attend(single, row_of(step, row, 0), 1),
                             1e-5, 1e-6));
  }
}

class FilledCache : public testing::Test {
 protected:
  static constexpr std::int64_t kSlot = 2;

  FilledCache() : layout_(geometry()), shape_({prompt_, prompt_}, 2, 4), cache_(make_cache()) {}

  ContiguousCache make_cache() const { return {layout_, shape_, at::kCPU}; }

  // Random bytes would hold NaN, which equals nothing.
  static at::Tensor random_deltas(const RowLayout& layout) {
    at::Tensor deltas = at::zeros({2, layout.row_stride_bytes()}, at::kByte);
    for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
      for (const auto& entry : {layout.key(layer), layout.value(layer)}) {
        const at::Tensor view = layout.entry_view(deltas, entry);
        view.copy_(at::randn(view.sizes()));
      }
    }
    return deltas;
  }

  at::Tensor held() const { return read_slot(cache_, shape_, kSlot); }

  // Every row holds `deltas`, of `layout`, converted to the cache's dtype.
  void expect_holds(const at::Tensor& deltas, const RowLayout& layout) const {
    for (std::int64_t layer = 0; layer < layout_.num_layers(); ++layer) {
      const LayerKv kept = read_layer(cache_, shape_, layer, kSlot);
      EXPECT_TRUE(kept.k.equal(layout.entry_view(deltas, layout.key(layer)).to(at::kFloat)));
      EXPECT_TRUE(kept.v.equal(layout.entry_view(deltas, layout.value(layer)).to(at::kFloat)));
    }
  }

  RowLayout layout_;
  std::vector<std::int32_t> prompt_{1, 2};
  BatchShape shape_;
  ContiguousCache cache_;
};

TEST_F(FilledCache, ReadsTheRowThatEveryLayerWrote) {
  cache_.begin({kSlot, 1});
  std::vector<Projections> layers;
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    layers.push_back(random_projections(2, 1));
    attend(cache_, layers.back(), layer);
  }
  const at::Tensor deltas = held();
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    const Projections& p = layers[static_cast<std::size_t>(layer)];
    EXPECT_TRUE(layout_.entry_view(deltas, layout_.key(layer)).equal(p.k));
    EXPECT_TRUE(layout_.entry_view(deltas, layout_.value(layer)).equal(p.v));
  }
}

TEST_F(FilledCache, ReadsWhatTheCacheHoldsAndNotWhatTheModelMade) {
  cache_.begin({kSlot, 1});
  for (std::int64_t layer = 0; layer < 2; ++layer) attend(cache_, random_projections(2, 1), layer);
  const LayerKv other = layout_.empty_rows(1, 1, at::kCPU);
  other.k.fill_(41);
  other.v.fill_(42);
  cache_.write({1, 1, {kSlot, 1}}, other);
  const at::Tensor value = layout_.entry_view(held(), layout_.value(1));
  EXPECT_TRUE(value.select(0, 1).eq(42).all().item<bool>());
  EXPECT_FALSE(value.select(0, 0).eq(42).any().item<bool>());
}

TEST_F(FilledCache, ReadIsTheInverseOfWrite) {
  const at::Tensor deltas = random_deltas(layout_);
  cache_.write_slot(kSlot, deltas, layout_, {});
  expect_holds(deltas, layout_);
  EXPECT_TRUE(held().equal(deltas));
}

TEST_F(FilledCache, WriteTouchesTheNamedRowsAlone) {
  const at::Tensor before = random_deltas(layout_);
  const at::Tensor after = random_deltas(layout_);
  cache_.write_slot(kSlot, before, layout_, {});
  cache_.write_slot(kSlot, after, layout_, std::array<std::int64_t, 1>{1});
  EXPECT_TRUE(held().select(0, 0).equal(before.select(0, 0)));
  EXPECT_TRUE(held().select(0, 1).equal(after.select(0, 1)));
}

TEST_F(FilledCache, WriteConvertsOtherDtypes) {
  const RowLayout half(geometry(DType::kBFloat16, DType::kBFloat16));
  ASSERT_TRUE(half.groups_match(layout_));
  const at::Tensor deltas = random_deltas(half);
  cache_.write_slot(kSlot, deltas, half, {});
  expect_holds(deltas, half);
}

TEST_F(FilledCache, WriteConvertsDtypesThatGroupInAnotherWay) {
  const RowLayout mixed(geometry(DType::kFloat8E4M3, DType::kFloat16));
  ASSERT_FALSE(mixed.groups_match(layout_));
  const at::Tensor first = random_deltas(mixed);
  cache_.write_slot(kSlot, first, mixed, {});
  expect_holds(first, mixed);
  const at::Tensor second = random_deltas(mixed);
  cache_.write_slot(kSlot, second, mixed, std::array<std::int64_t, 1>{1});
  for (std::int64_t row = 0; row < 2; ++row) {
    const at::Tensor value = mixed.entry_view(row == 0 ? first : second, mixed.value(1));
    const LayerKv kept = read_layer(cache_, shape_, 1, kSlot);
    EXPECT_TRUE(kept.v.select(0, row).equal(value.select(0, row).to(at::kFloat)));
  }
}

TEST_F(FilledCache, NamesALayerThatTheModelSkipped) {
  cache_.begin({kSlot, 1});
  attend(cache_, random_projections(2, 1), 0);
  EXPECT_THAT(error_of([&] { cache_.end(); }).what(), testing::HasSubstr("layer 1"));
  attend(cache_, random_projections(2, 1), 1);
  EXPECT_NO_THROW(cache_.end());
  cache_.begin({kSlot + 1, 1});
  EXPECT_THROW(cache_.end(), Error);
}

TEST(ContiguousCache, RefusesMoreThanItsCapacity) {
  const RowLayout layout(geometry());
  const std::vector<std::int32_t> prompt{1, 2};
  const BatchShape shape({prompt}, 2, 3);
  ContiguousCache cache(layout, shape, at::kCPU);
  EXPECT_NO_THROW(cache.begin({2, 1}));
  EXPECT_THROW(cache.begin({3, 1}), Error);
}

TEST(BatchShape, RefusesEmptyAndOverlongPrompts) {
  const std::vector<std::int32_t> prompt{1, 2, 3};
  EXPECT_THROW(BatchShape({std::span<const std::int32_t>()}, 2, 4), Error);
  EXPECT_THROW(BatchShape({prompt}, 2, 4), Error);
  EXPECT_THROW(BatchShape({}, 2, 4), Error);
}

TEST(BatchShape, PadsOnTheLeft) {
  const std::vector<std::int32_t> one{7, 8, 9};
  const std::vector<std::int32_t> two{5};
  const BatchShape shape({one, two}, 3, 4);
  EXPECT_TRUE(
      shape.input_ids(at::kCPU).equal(at::tensor({7, 8, 9, 0, 0, 5}, at::kLong).view({2, 3})));
  EXPECT_TRUE(
      shape.position_ids(at::kCPU).equal(at::tensor({0, 1, 2, 0, 0, 0}, at::kLong).view({2, 3})));
  EXPECT_TRUE(
      shape.first_step_positions(at::kCPU).equal(at::tensor({3, 1}, at::kLong).view({2, 1})));
}

TEST(CheckPositions, CountsPromptAndNewTokens) {
  EXPECT_NO_THROW(check_positions(5, 4, 8));
  EXPECT_THROW(check_positions(5, 5, 8), Error);
  EXPECT_THROW(check_positions(9, 1, 8), Error);
}

}  // namespace
}  // namespace kvtool::engine
