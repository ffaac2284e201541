#include "engine/cache/spare_cache.h"

#include <gtest/gtest.h>

#include "engine/toy_run.h"

namespace kvtool::engine {
namespace {

using format::ReplayMode;

class SpareCacheTest : public testing::Test {
 protected:
  std::unique_ptr<KvCache> take(const char* spec, const BatchShape& shape) {
    return spare_.maker(cache::CacheSpec::parse(spec))(layout_, shape, at::kCPU);
  }

  std::vector<std::int32_t> long_{1, 2, 3, 4};
  std::vector<std::int32_t> short_{5};
  RowLayout layout_{format::Geometry({{DType::kFloat32, DType::kFloat32, 2, 8, 6}})};
  BatchShape padded_{{long_, short_}, 4, 9};
  BatchShape even_{{short_, short_}, 1, 9};
  SpareCache spare_;
};

TEST_F(SpareCacheTest, ABatchOfTheSameSizeGetsTheLastOneCleared) {
  std::unique_ptr<KvCache> first = take("int8", padded_);
  const KvCache* const address = first.get();
  first->begin({0, 4});
  EXPECT_EQ(first->use().length, 4U);
  spare_.give_back(std::move(first));
  const std::unique_ptr<KvCache> second = take("int8", even_);
  EXPECT_EQ(second.get(), address);
  EXPECT_EQ(second->use().length, 0U);
  // It is lent now.
  EXPECT_NE(take("int8", even_).get(), address);
}

TEST_F(SpareCacheTest, AnotherBatchGetsItsOwn) {
  const BatchShape longer({long_, short_}, 4, 10);
  const BatchShape wider({long_, short_, short_}, 4, 9);
  for (const BatchShape* shape : {&longer, &wider}) {
    spare_.give_back(take("int8", padded_));
    const std::unique_ptr<KvCache> other = take("int8", *shape);
    const auto rows = static_cast<std::uint64_t>(shape->rows());
    EXPECT_EQ(other->use().capacity, static_cast<std::uint64_t>(shape->capacity()));
    EXPECT_NO_THROW(other->begin({0, shape->padded_length()}));
    EXPECT_EQ(other->use().logical_bytes, (4 + rows - 1) * layout_.geometry().position_bytes());
  }
  spare_.give_back(take("int8", padded_));
  EXPECT_EQ(take("contiguous", padded_)->name(), "the cache contiguous");
}

// Modes of a replay follow one another in batches of one size.
TEST(SpareCacheRun, ReplaysOfABatchShareOneCache) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 12);
  const BatchShape shape({recorded[0]->prompt(), recorded[1]->prompt()}, 5, 16);
  const auto lent = [&] { return model.spare_cache.maker({})(model.layout, shape, at::kCPU); };
  std::unique_ptr<KvCache> cache = lent();
  const KvCache* const address = cache.get();
  model.spare_cache.give_back(std::move(cache));
  for (const ReplayMode mode : {ReplayMode::kInject, ReplayMode::kForced, ReplayMode::kFree}) {
    run(model, recorded, replay_options(mode, {}, false));
    cache = lent();
    EXPECT_EQ(cache.get(), address);
    model.spare_cache.give_back(std::move(cache));
  }
  // What runs without such a cache needs the memory.
  run(model, recorded, replay_options(ReplayMode::kInject, {}, true));
  EXPECT_FALSE(model.spare_cache.holds_one());
}

}  // namespace
}  // namespace kvtool::engine
