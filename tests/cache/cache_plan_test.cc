#include "kvtool/cache/cache_plan.h"

#include <gtest/gtest.h>

#include "support/error_of.h"

namespace kvtool::cache {
namespace {

format::Geometry geometry(std::size_t layers, const format::LayerGeometry& layer) {
  return format::Geometry(std::vector(layers, layer));
}

// Llama-3.1-8B in bfloat16: 131072 bytes a position, 1 GiB at 8192 of them.
const format::LayerGeometry kLlama{DType::kBFloat16, DType::kBFloat16, 8, 128, 128};

TEST(PlanCache, ContiguousKeepsWhatTheModelMakes) {
  const CachePlan plan = plan_cache(geometry(32, kLlama), {1, 8192}, CacheSpec());
  EXPECT_EQ(plan.logical_bytes, std::uint64_t{1} << 30);
  EXPECT_EQ(plan.kept_bytes, plan.logical_bytes);
  EXPECT_EQ(plan.work_bytes, 0U);
}

TEST(PlanCache, Int8KeepsABytePerElementAndAScalePerHead) {
  const CachePlan plan = plan_cache(geometry(32, kLlama), {2, 8192}, CacheSpec::parse("int8"));
  EXPECT_EQ(plan.logical_bytes, std::uint64_t{2} << 30);
  EXPECT_EQ(plan.kept_bytes, 2ULL * 8192 * 32 * 2 * 8 * (128 + 4));
  // K and V of one layer in bfloat16, one of them in float32.
  EXPECT_EQ(plan.work_bytes, 2ULL * 8192 * 8 * 128 * (2 + 2 + 4));
  EXPECT_EQ(plan.physical_bytes(), plan.kept_bytes + plan.work_bytes);
}

TEST(PlanCache, WhatIsHiddenIsKeptAsItsCodecKeepsIt) {
  const auto bytes = [](const char* spec) {
    return plan_cache(geometry(4, kLlama), {2, 100}, CacheSpec::parse(spec)).physical_bytes();
  };
  EXPECT_EQ(bytes("window"), bytes("contiguous"));
  EXPECT_EQ(bytes("window:codec=int8"), bytes("int8"));
}

TEST(PlanCache, CountsWhatIsKeptOfPages) {
  const auto plan = [](const char* spec) {
    return plan_cache(geometry(4, kLlama), {2, 100}, CacheSpec::parse(spec));
  };
  const std::uint64_t rows = plan("contiguous").kept_bytes;
  // Two numbers of 8 heads of 128 channels, of 6 complete pages in 2 of 4 layers.
  EXPECT_EQ(plan("quest").kept_bytes, rows + 2ULL * 6 * 2 * 2 * 8 * 128 * 4);
  EXPECT_EQ(plan("mean-key:page=3,dense=0").kept_bytes, rows + 2ULL * 33 * 4 * 8 * 128 * 4);
  EXPECT_EQ(plan("mass").kept_bytes, rows);
  EXPECT_EQ(plan("quest").work_bytes, 0U);
}

TEST(PlanCache, WorkSpaceFitsTheLargestLayer) {
  const format::Geometry mixed(
      {{DType::kFloat32, DType::kFloat16, 1, 10, 4}, {DType::kFloat16, DType::kFloat32, 3, 2, 4}});
  const CachePlan plan = plan_cache(mixed, {1, 5}, CacheSpec::parse("int8"));
  EXPECT_EQ(plan.logical_bytes, 5U * (40 + 8 + 12 + 48));
  EXPECT_EQ(plan.kept_bytes, 5U * (14 + 8 + 3 * 6 + 3 * 8));
  // K of layer 0, V of layer 1; as float32 K of layer 1 (24 bytes) and V of layer 0 (16).
  EXPECT_EQ(plan.work_bytes, 5U * (40 + 48 + 24));
}

TEST(PlanCache, NoPositionsTakeNothing) {
  EXPECT_EQ(plan_cache(geometry(4, kLlama), {1, 0}, CacheSpec()).physical_bytes(), 0U);
}

TEST(PlanCache, RefusesSizesThatDoNotFit) {
  const auto refuse = [](const BatchExtent& batch) {
    return error_of([&] { std::ignore = plan_cache(geometry(1, kLlama), batch, CacheSpec()); });
  };
  EXPECT_EQ(refuse({std::uint64_t{1} << 40, std::uint64_t{1} << 40}).code(), ErrorCode::kUsage);
  EXPECT_EQ(refuse({1, std::uint64_t{1} << 60}).code(), ErrorCode::kUsage);
}

TEST(PlanCache, RefusesAPolicyThatIsNotInTheTable) {
  constexpr std::array kOthers = {PolicyInfo{"elsewhere", "of a test", {}}};
  const CacheSpec spec = CacheSpec::parse("elsewhere", kOthers);
  const Error error =
      error_of([&] { std::ignore = plan_cache(geometry(1, kLlama), {1, 1}, spec); });
  EXPECT_EQ(error.code(), ErrorCode::kMisuse);
}

}  // namespace
}  // namespace kvtool::cache
