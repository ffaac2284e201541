#include "engine/cache/faulty_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <tuple>
#include <vector>

#include "engine/batch_shape.h"
#include "engine/cache/contiguous_cache.h"
#include "engine/cache/slot_rows.h"
#include "engine/memory_row.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

// Two layers, two KV heads, K and V of width 2, a batch of two rows whose prompt
// takes slot 0; steps follow.
class FaultyCacheTest : public testing::Test {
 protected:
  FaultyCacheTest()
      : layout_(format::Geometry({{DType::kFloat32, DType::kFloat32, 2, 2, 2},
                                  {DType::kFloat32, DType::kFloat32, 2, 2, 2}})),
        shape_({prompt_, prompt_}, 1, 4),
        cache_(layout_, shape_, at::kCPU) {
    // The prompt, which steps see: memory that nobody wrote may hold NaN.
    cache_.write_slot(0, at::zeros({2, layout_.row_stride_bytes()}, at::kByte), layout_, {});
  }

  // [2, 2, 1, 2]: rows, heads, one position, width.
  static at::Tensor row(std::initializer_list<double> values) {
    return at::tensor(at::ArrayRef<double>(values.begin(), values.size()), at::kFloat)
        .view({2, 2, 1, 2});
  }

  void attend(CachePolicy& policy, std::int64_t layer, const at::Tensor& k, const at::Tensor& v) {
    const std::optional<at::Tensor> sinks;
    output_ = policy.attend({k, k, v, layer, 1.0, 0, 0.0, sinks});
  }

  // Step `step` with `fault`, the same K and V in both layers.
  void store(const Fault& fault, std::int64_t step, const at::Tensor& k, const at::Tensor& v) {
    store(fault, step, [&](CachePolicy& policy, std::int64_t) {
      for (std::int64_t layer = 0; layer < 2; ++layer) attend(policy, layer, k, v);
      return output_;
    });
  }

  void store(const Fault& fault, std::int64_t step, const FaultyCache::Forward& forward) {
    FaultyCache faulty(cache_, fault);
    const StepSpan span{.first_step = step,
                        .slot_before = [this](const AttentionCall& call, std::int64_t of) {
                          return read_layer(cache_, shape_, call.layer, of);
                        }};
    cache_.begin({1 + step, 1});
    std::ignore = faulty.run({&span, 1}, forward);
    cache_.end();
  }

  void expect_stored(std::int64_t layer, std::int64_t step, const at::Tensor& k,
                     const at::Tensor& v) {
    const LayerKv kept = read_layer(cache_, shape_, layer, 1 + step);
    EXPECT_TRUE(kept.k.equal(k)) << kept.k;
    EXPECT_TRUE(kept.v.equal(v)) << kept.v;
  }

  RowLayout layout_;
  std::vector<std::int32_t> prompt_{1};
  BatchShape shape_;
  ContiguousCache cache_;
  at::Tensor output_;
  const at::Tensor k_ = row({1, 2, 3, 4, 5, 6, 7, 8});
  const at::Tensor v_ = row({10, 20, 30, 40, 50, 60, 70, 80});
};

TEST_F(FaultyCacheTest, ScalesValuesOfOneLayer) {
  store({FaultKind::kScaledValues, 1, 0, 0.5}, 0, k_, v_);
  expect_stored(0, 0, k_, v_);
  expect_stored(1, 0, k_, row({15, 30, 45, 60, 75, 90, 105, 120}));
}

TEST_F(FaultyCacheTest, SwapsTheFirstTwoHeads) {
  store({FaultKind::kSwappedHeads, 0, 0, 1.0}, 0, k_, v_);
  expect_stored(0, 0, row({3, 4, 1, 2, 7, 8, 5, 6}), row({30, 40, 10, 20, 70, 80, 50, 60}));
  expect_stored(1, 0, k_, v_);
}

TEST_F(FaultyCacheTest, BlendsByStrength) {
  store({FaultKind::kSwappedHeads, 0, 0, 0.25}, 0, k_, v_);
  expect_stored(0, 0, row({1.5, 2.5, 2.5, 3.5, 5.5, 6.5, 6.5, 7.5}),
                row({15, 25, 25, 35, 55, 65, 65, 75}));
}

TEST_F(FaultyCacheTest, StaleRowRepeatsTheSlotBeforeAtOneStep) {
  const Fault fault{FaultKind::kStaleRow, 0, 1, 1.0};
  store(fault, 0, k_, v_);
  expect_stored(0, 0, k_, v_);
  store(fault, 1, k_ + 1, v_ + 1);
  expect_stored(0, 1, k_, v_);
  expect_stored(1, 1, k_ + 1, v_ + 1);
  store(fault, 2, k_ + 2, v_ + 2);
  expect_stored(0, 2, k_ + 2, v_ + 2);
}

TEST_F(FaultyCacheTest, QuantizesKeysPerInputAndLosesTheScale) {
  // Scales 254 / 127 = 2 and 0.5 / 127.
  const at::Tensor k = row({254, -127, 2.9, 0, 0.5, -0.5, 0.26, 0});
  store({FaultKind::kUnscaledInt8Keys, 0, 0, 1.0}, 0, k, v_);
  // -63.5 is rounded to the even neighbour.
  expect_stored(0, 0, row({127, -64, 1, 0, 127, -127, 66, 0}), v_);
}

TEST_F(FaultyCacheTest, QuantizesZeroKeysToZero) {
  store({FaultKind::kUnscaledInt8Keys, 0, 0, 1.0}, 0, at::zeros_like(k_), v_);
  expect_stored(0, 0, at::zeros_like(k_), v_);
}

TEST_F(FaultyCacheTest, PutsOneNanIntoTheFirstRowAtOneStep) {
  const Fault fault{FaultKind::kNonfinite, 1, 1, 0.01};
  store(fault, 0, k_, v_);
  expect_stored(1, 0, k_, v_);
  store(fault, 1, k_, v_);
  const LayerKv kept = read_layer(cache_, shape_, 1, 2);
  EXPECT_EQ(kept.v.isnan().sum().item<std::int64_t>(), 1);
  EXPECT_TRUE(kept.v.select(0, 0).isnan().any().item<bool>());
  EXPECT_TRUE(kept.k.equal(k_));
}

TEST_F(FaultyCacheTest, TakesTheKeysOfTheNextPositionWithTheHiddenStatesOfThisOne) {
  int pass = 0;
  at::Tensor remembered;
  store({FaultKind::kRotatedKeys, 1, 0, 0.5}, 0, [&](CachePolicy& policy, std::int64_t later) {
    EXPECT_EQ(later, pass == 1 ? 1 : 0);
    attend(policy, 0, k_ + 4 * later, v_ + 4 * later);
    if (pass == 0) remembered = output_.clone();
    EXPECT_TRUE(output_.equal(remembered)) << pass;
    attend(policy, 1, k_ + 2 * later, v_ + 4 * later);
    ++pass;
    return output_;
  });
  EXPECT_EQ(pass, 3);
  expect_stored(0, 0, k_, v_);
  expect_stored(1, 0, k_ + 1, v_);
}

TEST_F(FaultyCacheTest, AnswersFromTheFaultyRow) {
  // One visible key: the output is its value.
  FaultyCache faulty(cache_, {FaultKind::kScaledValues, 0, 0, 1.0});
  const StepSpan span;
  cache_.begin({0, 1});
  std::ignore = faulty.run({&span, 1}, [&](CachePolicy& policy, std::int64_t) {
    attend(policy, 0, k_, v_);
    return output_;
  });
  EXPECT_TRUE(output_.transpose(1, 2).equal(read_layer(cache_, shape_, 0, 0).v));
}

// Keeps what it is handed.
class HandedRows : public CachePolicy {
 public:
  at::Tensor attend(const AttentionCall& call) override {
    k = call.k;
    v = call.v;
    return call.v.transpose(1, 2);
  }

  at::Tensor k;
  at::Tensor v;
};

// A pass over the tokens of two rows, one behind the other: a prompt of 1 and steps 0 and 1 of the
// first, then steps 3 and 4 of the second. One head of width 1, but for swapped heads.
class FaultyPass : public testing::Test {
 protected:
  void run(const Fault& fault, const at::Tensor& k, const at::Tensor& v) {
    std::vector<StepSpan> spans{{.position = 1, .first_step = 0, .steps = 2},
                                {.position = 3, .first_step = 3, .steps = 2}};
    spans[1].has_first_row = false;
    for (StepSpan& span : spans) {
      span.slot_before = [&span](const AttentionCall& call, std::int64_t step) {
        return LayerKv{at::full_like(call.k.narrow(2, 0, 1), span.position * 100 + step),
                       at::full_like(call.v.narrow(2, 0, 1), -span.position * 100 - step)};
      };
    }
    FaultyCache faulty(handed_, fault);
    const std::optional<at::Tensor> sinks;
    std::ignore = faulty.run(spans, [&](CachePolicy& policy, std::int64_t later) {
      const at::Tensor shifted = k + 10 * later;
      return policy.attend({k, shifted, v, 0, 1.0, 0, 0.0, sinks});
    });
  }

  static at::Tensor tokens(std::initializer_list<double> values, std::int64_t heads = 1) {
    return at::tensor(at::ArrayRef<double>(values.begin(), values.size()), at::kFloat)
        .view({1, heads, 5, -1});
  }

  void expect_handed(const at::Tensor& k, const at::Tensor& v) {
    EXPECT_TRUE(handed_.k.equal(k)) << handed_.k;
    EXPECT_TRUE(handed_.v.equal(v)) << handed_.v;
  }

  HandedRows handed_;
  const at::Tensor k_ = tokens({1, 2, 3, 4, 5});
  const at::Tensor v_ = tokens({10, 20, 30, 40, 50});
};

TEST_F(FaultyPass, StepsAreFaultyAndPromptsAreNot) {
  run({FaultKind::kScaledValues, 0, 0, 0.5}, k_, v_);
  expect_handed(k_, tokens({10, 30, 45, 60, 75}));
  run({FaultKind::kRotatedKeys, 0, 0, 0.5}, k_, v_);
  expect_handed(tokens({1, 7, 8, 9, 10}), v_);
}

TEST_F(FaultyPass, SwapsTheHeadsOfEachStep) {
  run({FaultKind::kSwappedHeads, 0, 0, 1.0}, tokens({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 2),
      tokens({10, 20, 30, 40, 50, 60, 70, 80, 90, 100}, 2));
  expect_handed(tokens({1, 7, 8, 9, 10, 6, 2, 3, 4, 5}, 2),
                tokens({10, 70, 80, 90, 100, 60, 20, 30, 40, 50}, 2));
}

TEST_F(FaultyPass, EachStepHasAScaleOfItsOwn) {
  run({FaultKind::kUnscaledInt8Keys, 0, 0, 1.0}, tokens({4, 2, 4, 1, 8, 4, -4, 4, 0, 1}), v_);
  expect_handed(tokens({4, 2, 127, 32, 127, 64, -127, 127, 0, 127}), v_);
}

TEST_F(FaultyPass, FaultsOfOneStepFindItInItsPass) {
  run({FaultKind::kStaleRow, 0, 4, 1.0}, k_, v_);
  expect_handed(tokens({1, 2, 3, 4, 304}), tokens({10, 20, 30, 40, -304}));
  run({FaultKind::kStaleRow, 0, 0, 1.0}, k_, v_);
  expect_handed(tokens({1, 100, 3, 4, 5}), tokens({10, -100, 30, 40, 50}));
  run({FaultKind::kStaleRow, 0, 2, 1.0}, k_, v_);
  expect_handed(k_, v_);
}

TEST_F(FaultyPass, OneNanGoesToTheFirstRowAlone) {
  run({FaultKind::kNonfinite, 0, 3, 1.0}, k_, v_);
  expect_handed(k_, v_);
  run({FaultKind::kNonfinite, 0, 1, 1.0}, k_, v_);
  EXPECT_TRUE(handed_.k.equal(k_));
  EXPECT_TRUE(handed_.v.isnan().equal(tokens({0, 0, 1, 0, 0}).to(at::kBool))) << handed_.v;
}

class CheckFault : public testing::Test {
 protected:
  CheckFault() {
    model_.geometry = format::Geometry(
        {{DType::kFloat32, DType::kFloat32, 2, 2, 2}, {DType::kFloat32, DType::kFloat32, 1, 2, 2}});
    model_.max_positions = 6;
    short_.prompt_ids = {1};
    short_.steps.resize(2);
    long_.prompt_ids = {1, 2};
    long_.steps.resize(3);
    batch_.rows = {{&short_}, {&long_}};
  }

  std::string message_of(const Fault& fault) {
    const Error error = error_of([&] { check_fault(fault, model_, batch_); });
    EXPECT_EQ(error.code(), ErrorCode::kMisuse);
    return error.what();
  }

  ModelInfo model_;
  MemoryRow short_;
  MemoryRow long_;
  ReplayBatch batch_;
};

TEST_F(CheckFault, AcceptsWhatTheReplayHas) {
  EXPECT_NO_THROW(check_fault({FaultKind::kStaleRow, 1, 2, 1.0}, model_, batch_));
  EXPECT_NO_THROW(check_fault({FaultKind::kSwappedHeads, 0, 99, 0.5}, model_, batch_));
  EXPECT_NO_THROW(check_fault({FaultKind::kRotatedKeys, 1, 0, 1.0}, model_, batch_));
}

TEST_F(CheckFault, RefusesLayersAndStepsThatThereAreNot) {
  EXPECT_THAT(message_of({FaultKind::kScaledValues, 2, 0, 1.0}), testing::HasSubstr("2 layers"));
  EXPECT_THAT(message_of({FaultKind::kStaleRow, 0, 3, 1.0}), testing::HasSubstr("3 steps"));
  // The NaN goes to the first row, which ends earlier.
  EXPECT_THAT(message_of({FaultKind::kNonfinite, 0, 2, 1.0}), testing::HasSubstr("2 steps"));
  long_.steps.clear();
  short_.steps.clear();
  EXPECT_THAT(message_of({FaultKind::kScaledValues, 0, 0, 1.0}), testing::HasSubstr("hold none"));
}

TEST_F(CheckFault, RefusesToSwapOneHead) {
  EXPECT_THAT(message_of({FaultKind::kSwappedHeads, 1, 0, 1.0}), testing::HasSubstr("one KV head"));
}

TEST_F(CheckFault, RefusesStrengthsOutsideOfTheirRange) {
  for (const double strength : {0.0, -1.0, 1.01, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THAT(message_of({FaultKind::kScaledValues, 0, 0, strength}),
                testing::HasSubstr("strength"));
  }
}

TEST_F(CheckFault, RotatedKeysNeedAFurtherPosition) {
  model_.max_positions = 5;  // the replay itself fits: positions 0 to 4
  EXPECT_THAT(message_of({FaultKind::kRotatedKeys, 0, 0, 1.0}), testing::HasSubstr("6 positions"));
}

}  // namespace
}  // namespace kvtool::engine
