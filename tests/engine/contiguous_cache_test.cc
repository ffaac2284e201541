#include "engine/contiguous_cache.h"

#include <gtest/gtest.h>

#include "engine/batch_run.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

constexpr std::int64_t kHeads = 2;
constexpr std::int64_t kDim = 8;

format::Geometry geometry() {
  return format::Geometry(std::vector<format::LayerGeometry>(
      2, {DType::kFloat32, DType::kFloat32, static_cast<std::uint32_t>(kHeads),
          static_cast<std::uint32_t>(kDim), static_cast<std::uint32_t>(kDim)}));
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
  batch.begin(0, 5);
  const at::Tensor prompt_out = attend(batch, prompt, 1);
  batch.begin(5, 1);
  const at::Tensor step_out = attend(batch, step, 1);
  for (std::int64_t row = 0; row < 3; ++row) {
    const BatchShape alone({prompts[static_cast<std::size_t>(row)]}, shape.prompt_length(row), 8);
    ContiguousCache single(layout, alone, at::kCPU);
    single.begin(0, shape.prompt_length(row));
    const at::Tensor expected = attend(single, row_of(prompt, row, shape.padding(row)), 1);
    EXPECT_TRUE(at::allclose(
        prompt_out.narrow(0, row, 1).narrow(1, shape.padding(row), shape.prompt_length(row)),
        expected, 1e-5, 1e-6));
    single.begin(shape.prompt_length(row), 1);
    EXPECT_TRUE(at::allclose(step_out.narrow(0, row, 1), attend(single, row_of(step, row, 0), 1),
                             1e-5, 1e-6));
  }
}

TEST(ContiguousCache, InjectedDeltaReplacesTheRowOfEveryLayer) {
  const RowLayout layout(geometry());
  const std::vector<std::int32_t> prompt{1, 2};
  const BatchShape shape({prompt, prompt}, 2, 4);
  ContiguousCache cache(layout, shape, at::kCPU);
  cache.begin(2, 1);
  StepTap tap(layout);
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    const Projections p = random_projections(2, 1);
    tap.on_kv(layer, p.k, p.v);
    attend(cache, random_projections(2, 1), layer);
  }
  at::Tensor deltas = at::zeros({2, layout.row_stride_bytes()}, at::kByte);
  tap.gather(deltas);
  const at::Tensor kept = cache.key_rows(1, 0, 2, 1).clone();
  cache.inject(deltas, 2, {1});
  EXPECT_TRUE(cache.key_rows(1, 0, 2, 1).equal(kept));
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    EXPECT_TRUE(cache.key_rows(layer, 1, 2, 1)
                    .equal(layout.entry_view(deltas, layout.key(layer)).select(0, 1)));
  }
  cache.inject(deltas, 2, {});
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    EXPECT_TRUE(cache.value_rows(layer, 0, 2, 1)
                    .equal(layout.entry_view(deltas, layout.value(layer)).select(0, 0)));
  }
}

TEST(ContiguousCache, RefusesMoreThanItsCapacity) {
  const RowLayout layout(geometry());
  const std::vector<std::int32_t> prompt{1, 2};
  const BatchShape shape({prompt}, 2, 3);
  ContiguousCache cache(layout, shape, at::kCPU);
  EXPECT_NO_THROW(cache.begin(2, 1));
  EXPECT_THROW(cache.begin(3, 1), Error);
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

TEST(StepTap, NamesALayerThatTheModelSkipped) {
  const RowLayout layout(geometry());
  StepTap tap(layout);
  const Projections p = random_projections(1, 1);
  tap.on_kv(0, p.k, p.v);
  at::Tensor deltas = at::zeros({1, layout.row_stride_bytes()}, at::kByte);
  EXPECT_THROW(tap.gather(deltas), Error);
}

TEST(CheckPositions, CountsPromptAndNewTokens) {
  EXPECT_NO_THROW(check_positions(5, 4, 8));
  EXPECT_THROW(check_positions(5, 5, 8), Error);
  EXPECT_THROW(check_positions(9, 1, 8), Error);
}

}  // namespace
}  // namespace kvtool::engine
