// What a decode step may cost besides the model: no allocation of the cache's
// size, no concatenation, nothing that waits for the device but the token, and
// the same at every step.
#include <ATen/record_function.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <tuple>

#include "engine/cache/policy_param.h"
#include "engine/sink_pump.h"
#include "memory_row.h"
#include "toy_module.h"

namespace {

// Of the whole process while it is switched on, through either way to the heap.
struct HeapUse {
  std::atomic<bool> counts{false};
  std::atomic<std::uint64_t> allocations{0};
  std::atomic<std::uint64_t> largest{0};

  void note(std::size_t bytes) {
    if (!counts.load(std::memory_order_relaxed)) return;
    allocations.fetch_add(1, std::memory_order_relaxed);
    std::uint64_t seen = largest.load(std::memory_order_relaxed);
    while (seen < bytes && !largest.compare_exchange_weak(seen, bytes)) {
    }
  }
};
HeapUse heap;

}  // namespace

// GCC takes inlined pairs of these for a mismatch of new and free.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif

void* operator new(std::size_t bytes) {
  heap.note(bytes);
  if (void* memory = std::malloc(std::max<std::size_t>(bytes, 1))) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace kvtool::engine {
namespace {

constexpr std::uint64_t kCapacity = 60000;
// Steps before the counting: by then the sinks' thread, which has a few slots only,
// is through with the prompt.
constexpr std::uint64_t kStart = 2 * SinkPump::kSlots;
constexpr std::uint64_t kSteps = 40;
// Of one layer's K, the smallest piece of the cache that has its length.
constexpr std::uint64_t kLayerBytes =
    kCapacity * ToyModule::kHeads * ToyModule::kDim * sizeof(float);

// Tensors' memory.
class CountingAllocator : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    heap.note(bytes);
    return c10::GetDefaultCPUAllocator()->allocate(bytes);
  }
  void copy_data(void* target, const void* source, std::size_t bytes) const override {
    default_copy_data(target, source, bytes);
  }
};

// Names of the operations that ran, with their number, while it lives.
class OperationCounter {
 public:
  OperationCounter() {
    active_ = this;
    handle_ =
        at::addGlobalCallback(at::RecordFunctionCallback([](const at::RecordFunction& function) {
                                const std::lock_guard lock(active_->mutex_);
                                ++active_->counts_[function.name()];
                                return std::unique_ptr<at::ObserverContext>();
                              }).scopes({at::RecordScope::FUNCTION}));
  }
  ~OperationCounter() { at::removeCallback(handle_); }
  OperationCounter(const OperationCounter&) = delete;
  OperationCounter& operator=(const OperationCounter&) = delete;

  std::map<std::string, std::uint64_t> counts() {
    const std::lock_guard lock(mutex_);
    return counts_;
  }

 private:
  static inline OperationCounter* active_ = nullptr;
  std::mutex mutex_;
  std::map<std::string, std::uint64_t> counts_;
  at::CallbackHandle handle_;
};

struct StepCost {
  std::uint64_t tensor_operations = 0;
  std::map<std::string, std::uint64_t> operations;  // of all steps
};

struct Stop : std::runtime_error {
  Stop() : std::runtime_error("stop") {}
};

class StepCostBase : public testing::Test {
 protected:
  StepCostBase() : model_(toy_model()) {
    model_.info.max_positions = kCapacity + 10;
    row_.recording_header.model_sha256 = model_.info.weights_sha256;
    row_.recording_header.vocab_size = model_.info.vocab_size;
    row_.recording_header.logits_dtype = model_.info.logits_dtype;
    row_.recording_header.top_k = 4;
    row_.recording_header.logits_sample = 5;
    row_.recording_header.geometry = model_.info.geometry;
    row_.prompt_ids = {1, 2, 3};
    row_.steps.reserve(1000);
    row_.deltas.reserve(1000);
    before_ = c10::GetCPUAllocator();
    c10::SetCPUAllocator(&allocator_, /*priority=*/100);
  }
  ~StepCostBase() override {
    heap.counts = false;
    c10::SetCPUAllocator(before_, /*priority=*/100);
  }

  // Runs kSteps steps with a cache for far more, then stops. Fills operations_.
  template <typename Run>
  void count(Run&& run) {
    OperationCounter counter;
    std::map<std::string, std::uint64_t> at_first;
    const Progress progress = [&](std::uint64_t done, std::uint64_t) {
      if (done == kStart) {
        at_first = counter.counts();
        heap.allocations = 0;
        heap.largest = 0;
        heap.counts = true;
      }
      if (done == kStart + kSteps / 2) allocations_of_first_half_ = heap.allocations;
      if (done == kStart + kSteps) {
        heap.counts = false;
        operations_ = counter.counts();
        for (auto& [name, number] : operations_) number -= at_first[name];
        std::erase_if(operations_, [](const auto& entry) { return entry.second == 0; });
        throw Stop();
      }
    };
    EXPECT_THROW(run(progress), Stop);
  }

  void expect_cheap_steps(const PolicyCase& policy) {
    ASSERT_GT(heap.allocations, kSteps);  // or nothing was counted
    EXPECT_LT(heap.largest, kLayerBytes / 10) << "bytes in one allocation";
    // Nothing grows from step to step; the sinks' thread may be a step late.
    const auto first = static_cast<double>(allocations_of_first_half_);
    const auto all = static_cast<double>(heap.allocations);
    EXPECT_NEAR(all / 2 / first, 1.0, 0.1) << "allocations of all steps and of half of them";
    // To choose keys is to bring them together.
    if (!selects(policy)) {
      EXPECT_FALSE(operations_.contains("aten::cat")) << "concatenates";
    }
    EXPECT_FALSE(operations_.contains("aten::_local_scalar_dense")) << "reads a scalar";
    EXPECT_FALSE(operations_.contains("aten::nonzero"));
    ASSERT_TRUE(operations_.contains("aten::copy_"));
    // A selector has something to do at the end of each of its pages, of two positions here.
    const std::uint64_t regular = selects(policy) ? kSteps / 2 : kSteps;
    for (const auto& [name, number] : operations_) {
      EXPECT_EQ(number % regular, 0U) << name << " ran " << number << " times";
    }
  }

  TorchModel model_;
  MemoryRow row_;
  CountingAllocator allocator_;
  c10::Allocator* before_ = nullptr;
  std::uint64_t allocations_of_first_half_ = 0;
  std::map<std::string, std::uint64_t> operations_;
};

class StepCostTest : public StepCostBase, public testing::WithParamInterface<PolicyCase> {};

TEST_P(StepCostTest, GenerationWithoutRecording) {
  const std::vector<Input> inputs{{{1, 2, 3}}};
  count([&](const Progress& progress) {
    std::ignore =
        generate(model_, inputs, {kCapacity, true, 4, 5, roomy_spec_of(GetParam())}, {}, progress);
  });
  expect_cheap_steps(GetParam());
}

TEST_P(StepCostTest, GenerationThatIsRecorded) {
  const std::vector<Input> inputs{{{1, 2, 3}}};
  const std::vector<format::RowSink*> sinks{&row_};
  count([&](const Progress& progress) {
    const GenerateOptions options{kCapacity, true, 4, 5, roomy_spec_of(GetParam())};
    std::ignore = generate(model_, inputs, options, sinks, progress);
  });
  expect_cheap_steps(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Caches, StepCostTest, testing::ValuesIn(policy_cases()), name_of_policy);

class ReplayStepCost : public StepCostBase, public testing::WithParamInterface<PolicyInMode> {};

TEST_P(ReplayStepCost, IsTheSameAtEveryStep) {
  const auto& [mode, policy] = GetParam();
  const std::vector<Input> inputs{{{1, 2, 3}}};
  const std::vector<format::RowSink*> sinks{&row_};
  std::ignore =
      generate(model_, inputs, {2 * kSteps, true, 4, 5, roomy_spec_of(policy)}, sinks, {});
  MemoryRow live;
  live.steps.reserve(1000);
  live.deltas.reserve(1000);
  ReplayBatch batch;
  batch.rows.push_back({&row_});
  batch.padded_length = row_.prompt_ids.size();
  batch.cache_capacity = kCapacity;
  const std::vector<format::RowSink*> live_sinks{&live};
  ReplayOptions options{mode};
  options.kv_cache = roomy_spec_of(policy);
  count([&](const Progress& progress) {
    std::ignore = replay(model_, batch, options, live_sinks, progress);
  });
  expect_cheap_steps(policy);
}

INSTANTIATE_TEST_SUITE_P(ModesAndCaches, ReplayStepCost,
                         testing::Combine(testing::Values(format::ReplayMode::kInject,
                                                          format::ReplayMode::kForced,
                                                          format::ReplayMode::kFree),
                                          testing::ValuesIn(policy_cases())),
                         name_of_mode);

}  // namespace
}  // namespace kvtool::engine
