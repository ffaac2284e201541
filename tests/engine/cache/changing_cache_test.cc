// A cache that changes rows after their pass: what it may not be used for, and what it says.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <thread>

#include "engine/batch_run.h"
#include "engine/cache/contiguous_cache.h"
#include "engine/cache/parallel_cache.h"
#include "engine/cache/slot_rows.h"
#include "engine/logit_stats.h"
#include "engine/sink_pump.h"
#include "engine/toy_run.h"
#include "engine/toy_state.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

// Halves each row once the next pass begins, as a cache might that keeps old rows
// with less care.
class AgingCache : public ContiguousCache {
 public:
  AgingCache(const RowLayout& layout, const BatchShape& shape, at::Device device)
      : ContiguousCache(layout, shape, device), shape_(shape) {}

  [[nodiscard]] bool is_append_only() const override { return false; }

  void begin(SlotRange slots) override {
    for (std::int64_t slot = young_.first; slot < young_.end(); ++slot) halve(slot);
    young_ = slots;
    ContiguousCache::begin(slots);
  }

 private:
  void halve(std::int64_t slot) {
    const at::Tensor deltas = engine::read_slot(*this, shape_, slot);
    write_slot(slot, deltas.view(at::kFloat).mul(0.5).view(at::kByte), layout(), {});
  }

  const BatchShape& shape_;
  SlotRange young_;
};

std::unique_ptr<KvCache> make_aging(const RowLayout& layout, const BatchShape& shape,
                                    at::Device device) {
  return std::make_unique<AgingCache>(layout, shape, device);
}

// Takes its time for the prompt, so that steps could overtake its reading.
class SlowRow : public MemoryRow {
 public:
  void on_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                        std::span<const std::byte> value) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    MemoryRow::on_prefill_layer(layer, key, value);
  }
};

class FinalStateAlone : public MemoryRow {
 public:
  [[nodiscard]] Needs needs() const override { return {false, false, true}; }
};

class ChangingCache : public testing::Test {
 protected:
  ChangingCache()
      : model_(toy_model()),
        run_(*model_.module, model_.layout, BatchShape({prompt_}, 3, 10), at::kCPU, make_aging),
        stats_(ToyModule::kVocab, 4, {}, at::kCPU) {}

  // The prompt and five steps.
  void execute(SlowRow& row) {
    SinkPump pump({&row}, run_.shape(), run_.cache(), stats_, at::kCPU);
    push(pump, -1, run_.prefill());
    for (std::int64_t step = 0; step < 5; ++step) {
      push(pump, step, run_.decode(step, std::array<std::int32_t, 1>{7}));
    }
    pump.finish({5}, {format::RowEnd{}});
  }

  void push(SinkPump& pump, std::int64_t step, const at::Tensor& logits) {
    StepSlot* slot = pump.acquire();
    if (step >= 0) run_.cache().read_slot(run_.slot_of(step), slot->device_rows());
    slot->step = step;
    slot->input_tokens = {7};
    slot->active = {true};
    pump.push(slot, stats_.pack(logits, {}));
  }

  std::vector<std::int32_t> prompt_{1, 2, 3};
  TorchModel model_;
  BatchRun run_;
  LogitStats stats_;
};

TEST_F(ChangingCache, EndsWithAStateOfItsOwn) {
  SlowRow row;
  execute(row);
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    for (const bool value : {false, true}) {
      at::Tensor expected = told_state(row, layer, value);
      expected.narrow(1, 0, 7).mul_(0.5);  // all but the last step's
      EXPECT_TRUE(final_state(row, layer, value).equal(expected));
    }
  }
}

TEST_F(ChangingCache, ItsPromptIsReadBeforeTheFirstStep) {
  SlowRow row;
  execute(row);
  const Rows plain = record(model_, 2);
  EXPECT_EQ(row.prompt_values, plain[0]->prompt_values);
  EXPECT_EQ(row.prompt_keys, plain[0]->prompt_keys);
}

TEST_F(ChangingCache, RefusesARecordingOfTheFinalStateAlone) {
  FinalStateAlone row;
  const Error error =
      error_of([&] { const SinkPump pump({&row}, run_.shape(), run_.cache(), stats_, at::kCPU); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
}

TEST_F(ChangingCache, RefusesAParallelReplay) {
  const Error error =
      error_of([&] { const ParallelRow row(model_.layout, prompt_, 4, at::kCPU, make_aging); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
}

}  // namespace
}  // namespace kvtool::engine
