#include "engine/memory_meter.h"

#include <gtest/gtest.h>

#include <functional>
#include <tuple>

#include "engine/toy_run.h"
#include "kvtool/base/error.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

constexpr std::int64_t kMegabyte = 1 << 20;

at::Tensor bytes(std::int64_t count) { return at::empty({count}, at::kByte); }

// Two layers, two heads of four float32 numbers: K of a layer is 32 bytes a position.
class MemoryMeterTest : public testing::Test {
 protected:
  TorchModel model_ = toy_model();
  MemoryMeter meter_{at::kCPU};

  double copies_of(const std::function<void()>& attention) {
    meter_.begin_step(model_.layout, /*rows=*/1, /*positions=*/10);
    const MemoryMeter::InAttention inside;
    attention();
    return meter_.use().kv_copies_per_step;
  }
};

TEST_F(MemoryMeterTest, SeesTheMostThatTensorsTookAtATime) {
  {
    const at::Tensor first = bytes(3 * kMegabyte);
    const at::Tensor second = bytes(2 * kMegabyte);
  }
  const at::Tensor third = bytes(4 * kMegabyte);
  EXPECT_EQ(meter_.use().tensor_bytes, 5U * kMegabyte);
}

TEST_F(MemoryMeterTest, SaysWhatTheSystemSaysOfTheProcess) {
  const MemoryUse use = meter_.use();
  EXPECT_EQ(use.source, "resident set of the process");
  EXPECT_GT(use.before_bytes, 10U * kMegabyte);  // torch is loaded
  EXPECT_GE(use.peak_bytes, use.before_bytes);
}

// A cache that appends with cat() allocates K and V of every layer anew.
TEST_F(MemoryMeterTest, CountsACacheThatIsCopiedInEveryStep) {
  EXPECT_EQ(copies_of([] {
              const at::Tensor past = at::zeros({1, 2, 9, 4});
              const at::Tensor row = at::zeros({1, 2, 1, 4});
              for (int entry = 0; entry < 4; ++entry) std::ignore = at::cat({past, row}, 2);
            }),
            1.0);
}

TEST_F(MemoryMeterTest, CountsHalfACopyWhereOnlyKeysAreCopied) {
  EXPECT_EQ(copies_of([] {
              for (int layer = 0; layer < 2; ++layer) std::ignore = bytes(320);
            }),
            0.5);
}

TEST_F(MemoryMeterTest, OtherTensorsAreNoCopies) {
  EXPECT_EQ(copies_of([] { std::ignore = bytes(321); }), 0.0);
  meter_.begin_step(model_.layout, 1, 10);
  std::ignore = bytes(320);  // not by attention
  EXPECT_EQ(meter_.use().kv_copies_per_step, 0.0);
}

TEST_F(MemoryMeterTest, ThereIsOneAThread) {
  EXPECT_EQ(error_of([] { const MemoryMeter second(at::kCPU); }).code(), ErrorCode::kMisuse);
  EXPECT_EQ(MemoryMeter::current(), &meter_);
}

TEST(MemoryMeter, AGenerationCopiesNoKv) {
  TorchModel model = toy_model();
  const std::vector<Input> inputs{{{1, 2, 3}}};
  const GenerateResult result = generate(
      model, inputs, {.max_new_tokens = 9, .ignore_eos = true, .count_memory = true}, {}, {});
  ASSERT_TRUE(result.memory.has_value());
  EXPECT_EQ(result.memory->kv_copies_per_step, 0.0);
  // K and V of 11 positions at the least.
  EXPECT_GE(result.memory->tensor_bytes, 11U * 2 * 64);
  EXPECT_EQ(MemoryMeter::current(), nullptr);
}

TEST(MemoryMeter, NobodyCountsUnasked) {
  TorchModel model = toy_model();
  const std::vector<Input> inputs{{{1, 2, 3}}};
  EXPECT_FALSE(generate(model, inputs, {.max_new_tokens = 2}, {}, {}).memory.has_value());
}

}  // namespace
}  // namespace kvtool::engine
