#include "engine/sink_pump.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <string>

#include "engine/cache/contiguous_cache.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

class FakeSink : public format::RowSink {
 public:
  std::vector<std::string> calls;
  std::atomic<int> steps{0};
  std::chrono::milliseconds delay{0};
  int fail_at_step = -1;

  [[nodiscard]] Needs needs() const override { return {true, true, true}; }
  void on_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                        std::span<const std::byte>) override {
    calls.push_back("prefill " + std::to_string(layer) + " " + std::to_string(key.size()));
  }
  void on_prefill_end(const format::StepStats& stats) override {
    calls.push_back("prefill end, token " + std::to_string(stats.token));
  }
  void on_step(std::uint64_t step, const format::StepStats& stats,
               std::span<const std::byte> delta) override {
    if (static_cast<int>(step) == fail_at_step) throw_environment("disk full");
    std::this_thread::sleep_for(delay);
    float first = 0;
    std::memcpy(&first, delta.data(), sizeof first);
    calls.push_back("step " + std::to_string(step) + ", fed " + std::to_string(stats.input_token) +
                    ", key " + std::to_string(static_cast<int>(first)));
    ++steps;
  }
  void on_final_layer(std::uint32_t layer, std::span<const std::byte> key,
                      std::span<const std::byte>) override {
    calls.push_back("final " + std::to_string(layer) + " " + std::to_string(key.size()));
  }
  void on_end(const format::RowEnd&) override { calls.emplace_back("end"); }
};

class SinkPumpTest : public testing::Test {
 protected:
  SinkPumpTest()
      : layout_(format::Geometry({{DType::kFloat32, DType::kFloat32, 1, 4, 4}})),
        prompt_{1, 2, 3},
        shape_({prompt_}, 3, 64),
        cache_(layout_, shape_, at::kCPU),
        stats_(8, 2, {}, at::kCPU) {}

  void push(SinkPump& pump, std::int64_t step) {
    StepSlot* slot = pump.acquire();
    slot->step = step;
    slot->input_tokens = {static_cast<std::int32_t>(step)};
    slot->active = {true};
    layout_.entry_view(slot->device_rows(), layout_.key(0)).fill_(static_cast<double>(step));
    pump.push(slot, stats_.pack(at::arange(8, at::kFloat).unsqueeze(0), {}));
  }

  RowLayout layout_;
  std::vector<std::int32_t> prompt_;
  BatchShape shape_;
  ContiguousCache cache_;
  LogitStats stats_;
  FakeSink sink_;
};

TEST_F(SinkPumpTest, DeliversInOrder) {
  SinkPump pump({&sink_}, shape_, cache_, stats_, at::kCPU);
  push(pump, -1);
  for (int step = 0; step < 2; ++step) push(pump, step);
  pump.finish({2}, {format::RowEnd{}});
  EXPECT_EQ(sink_.calls, (std::vector<std::string>{"prefill 0 48", "prefill end, token 7",
                                                   "step 0, fed 0, key 0", "step 1, fed 1, key 1",
                                                   "final 0 80", "end"}));
}

TEST_F(SinkPumpTest, SlowSinkHoldsTheProducerBack) {
  sink_.delay = std::chrono::milliseconds(2);
  SinkPump pump({&sink_}, shape_, cache_, stats_, at::kCPU);
  for (int step = 0; step < 40; ++step) {
    push(pump, step);
    EXPECT_LE(step + 1 - sink_.steps.load(), static_cast<int>(SinkPump::kSlots) + 1);
  }
  pump.drain();
  EXPECT_EQ(sink_.steps.load(), 40);
}

TEST_F(SinkPumpTest, FirstErrorReachesTheProducer) {
  sink_.fail_at_step = 3;
  SinkPump pump({&sink_}, shape_, cache_, stats_, at::kCPU);
  try {
    for (int step = 0; step < 1000; ++step) push(pump, step);
    FAIL() << "the error did not arrive";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "disk full");
    EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  }
  EXPECT_EQ(sink_.steps.load(), 3);
  EXPECT_THROW(pump.drain(), Error);
}

TEST_F(SinkPumpTest, DestructionWithQueuedWorkEnds) {
  sink_.delay = std::chrono::milliseconds(5);
  SinkPump pump({&sink_}, shape_, cache_, stats_, at::kCPU);
  for (int step = 0; step < 6; ++step) push(pump, step);
}

}  // namespace
}  // namespace kvtool::engine
