// A parallel replay against the replay step by step, on a toy model.
#include <gtest/gtest.h>

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <thread>
#include <tuple>

#include "engine/cache/policy_param.h"
#include "memory_row.h"
#include "support/error_of.h"
#include "toy_run.h"

namespace kvtool::engine {
namespace {

using format::ReplayMode;

Rows rows_of(TorchModel& model, const Rows& references, const ReplayOptions& options) {
  Replayed replayed = run(model, references, options);
  EXPECT_EQ(replayed.result.own_step_kv.size(), references.size());
  return std::move(replayed.rows);
}

ReplayOptions parallel(ReplayMode mode, const cache::CacheSpec& kv_cache = {}) {
  ReplayOptions options;
  options.mode = mode;
  options.parallel = true;
  options.kv_cache = kv_cache;
  return options;
}

double largest_difference(const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
  EXPECT_EQ(a.size(), b.size());
  const auto* x = reinterpret_cast<const float*>(a.data());
  const auto* y = reinterpret_cast<const float*>(b.data());
  double largest = 0.0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()) / sizeof(float); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(x[i]) - static_cast<double>(y[i])));
  }
  return largest;
}

void expect_close(const format::StepStats& a, const format::StepStats& b) {
  EXPECT_EQ(a.input_token, b.input_token);
  EXPECT_EQ(a.token, b.token);
  EXPECT_EQ(a.top_ids, b.top_ids);
  EXPECT_NEAR(a.logsumexp, b.logsumexp, 1e-5);
}

void expect_close(const MemoryRow& a, const MemoryRow& b) {
  expect_close(a.first, b.first);
  ASSERT_EQ(a.steps.size(), b.steps.size());
  ASSERT_EQ(a.deltas.size(), b.deltas.size());
  for (std::size_t step = 0; step < a.steps.size(); ++step) {
    expect_close(a.steps[step], b.steps[step]);
    EXPECT_LT(largest_difference(a.deltas[step], b.deltas[step]), 1e-5) << step;
  }
  ASSERT_EQ(a.prompt_keys.size(), b.prompt_keys.size());
  ASSERT_EQ(a.final_values.size(), b.final_values.size());
  for (std::size_t layer = 0; layer < a.prompt_keys.size(); ++layer) {
    EXPECT_LT(largest_difference(a.prompt_keys[layer], b.prompt_keys[layer]), 1e-5);
    EXPECT_LT(largest_difference(a.prompt_values[layer], b.prompt_values[layer]), 1e-5);
    EXPECT_LT(largest_difference(a.final_values[layer], b.final_values[layer]), 1e-5);
  }
}

// Something that only the recording's K/V can bring about.
void disturb(MemoryRow& row) {
  auto* values = reinterpret_cast<float*>(row.deltas[1].data());
  for (std::size_t i = 0; i < row.deltas[1].size() / sizeof(float); ++i) values[i] += 1.0F;
  auto* prompt = reinterpret_cast<float*>(row.prompt_values[1].data());
  for (std::size_t i = 0; i < row.prompt_values[1].size() / sizeof(float); ++i) prompt[i] += 0.5F;
}

class ParallelReplay : public testing::TestWithParam<PolicyInMode> {
 protected:
  static cache::CacheSpec kv_cache() { return spec_of(std::get<cache::PolicyInfo>(GetParam())); }
  static ReplayOptions in_parallel() {
    return parallel(std::get<ReplayMode>(GetParam()), kv_cache());
  }
  static ReplayOptions step_by_step() {
    ReplayOptions options = in_parallel();
    options.parallel = false;
    return options;
  }
};

TEST_P(ParallelReplay, AgreesWithTheReplayStepByStep) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 8, kv_cache());
  disturb(*recorded[0]);
  const Rows steps = rows_of(model, recorded, step_by_step());
  module_of(model).fed.clear();
  const Rows rows = rows_of(model, recorded, in_parallel());
  EXPECT_EQ(module_of(model).fed.size(), 1U);
  for (std::size_t row = 0; row < rows.size(); ++row) expect_close(*rows[row], *steps[row]);
}

// A row that remembers who brought it its steps.
class ThreadOfSteps : public MemoryRow {
 public:
  void on_step(std::uint64_t step, const format::StepStats& stats,
               std::span<const std::byte> delta) override {
    thread = std::this_thread::get_id();
    MemoryRow::on_step(step, stats, delta);
  }

  std::thread::id thread;
};

TEST(ParallelReplayThreads, RowsAreHandedOverSideBySide) {
#ifdef __clang__
  GTEST_SKIP() << "Clang's OpenMP is not the library that torch brings";
#endif
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  TorchModel model = toy_model();
  const Rows recorded = record(model, 8);
  ReplayBatch batch;
  batch.padded_length = 5;
  std::vector<ThreadOfSteps> rows(recorded.size());
  std::vector<format::RowSink*> sinks;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    batch.rows.push_back({recorded[i].get()});
    sinks.push_back(&rows[i]);
  }
  std::ignore = replay_in_parallel(model, batch, parallel(ReplayMode::kInject), sinks, {});
  at::set_num_threads(threads);
  std::set<std::thread::id> seen;
  for (const ThreadOfSteps& row : rows) seen.insert(row.thread);
  EXPECT_EQ(seen.size(), 2U);
}

TEST_P(ParallelReplay, LittleMemoryMeansMorePassesAndTheSameResult) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 8, kv_cache());
  disturb(*recorded[1]);
  const Rows steps = rows_of(model, recorded, step_by_step());
  module_of(model).fed.clear();
  ReplayOptions options = in_parallel();
  options.parallel_memory_bytes = 1;
  const Rows rows = rows_of(model, recorded, options);
  EXPECT_GT(module_of(model).fed.size(), 10U);
  for (std::size_t row = 0; row < rows.size(); ++row) expect_close(*rows[row], *steps[row]);
}

TEST_P(ParallelReplay, RunsOnItsOwnStepsWhereTheRecordingHasNone) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 8, kv_cache());
  disturb(*recorded[0]);
  recorded[0]->with_step_kv = false;
  const Rows steps = rows_of(model, recorded, step_by_step());
  const Rows rows = rows_of(model, recorded, in_parallel());
  for (std::size_t row = 0; row < rows.size(); ++row) expect_close(*rows[row], *steps[row]);
}

INSTANTIATE_TEST_SUITE_P(ModesAndCaches, ParallelReplay,
                         testing::Combine(testing::Values(ReplayMode::kInject, ReplayMode::kForced),
                                          testing::ValuesIn(cache::kPolicies)),
                         name_of_mode);

TEST(ParallelReplayOnce, SinksMayBeMissing) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 4);
  ReplayBatch batch;
  for (const auto& row : recorded) batch.rows.push_back({row.get()});
  const ReplayResult result =
      replay_in_parallel(model, batch, parallel(ReplayMode::kInject), {}, {});
  EXPECT_EQ(result.timing.decode_steps, 6U);
}

TEST(ParallelReplayOnce, ReportsProgressUpToAllSteps) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 4);
  ReplayBatch batch;
  for (const auto& row : recorded) batch.rows.push_back({row.get()});
  std::uint64_t last = 0;
  std::ignore = replay_in_parallel(model, batch, parallel(ReplayMode::kInject), {},
                                   [&](std::uint64_t done, std::uint64_t total) {
                                     EXPECT_EQ(total, 6U);
                                     last = done;
                                   });
  EXPECT_EQ(last, 6U);
}

TEST(ParallelReplayOnce, FreeModeAndFaultsAreRefused) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 4);
  ReplayBatch batch;
  batch.rows.push_back({recorded[0].get()});
  const auto error_of_run = [&](const ReplayOptions& options) {
    return error_of([&] { std::ignore = replay_in_parallel(model, batch, options, {}, {}); });
  };
  EXPECT_EQ(error_of_run(parallel(ReplayMode::kFree)).code(), ErrorCode::kUsage);
  ReplayOptions options = parallel(ReplayMode::kInject);
  options.fault = Fault{};
  EXPECT_EQ(error_of_run(options).code(), ErrorCode::kMisuse);
}

}  // namespace
}  // namespace kvtool::engine
