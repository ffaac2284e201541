// A parallel replay against the replay step by step, on a toy model.
#include <gtest/gtest.h>

#include <ATen/Parallel.h>

#include <cstring>
#include <limits>
#include <set>
#include <thread>
#include <tuple>

#include "close_rows.h"
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

// Something that only the recording's K/V can bring about.
void disturb(MemoryRow& row) {
  auto* values = reinterpret_cast<float*>(row.deltas[1].data());
  for (std::size_t i = 0; i < row.deltas[1].size() / sizeof(float); ++i) values[i] += 1.0F;
  auto* prompt = reinterpret_cast<float*>(row.prompt_values[1].data());
  for (std::size_t i = 0; i < row.prompt_values[1].size() / sizeof(float); ++i) prompt[i] += 0.5F;
}

class ParallelReplay : public testing::TestWithParam<PolicyInMode> {
 protected:
  static cache::CacheSpec kv_cache() { return spec_of(std::get<PolicyCase>(GetParam())); }
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

// In the middle of the steps, which share products.
TEST_P(ParallelReplay, ANanReachesTheStepsThatSeeItAlone) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 8, kv_cache());
  const format::RowOffset& layer = model.info.geometry.row_offset(1);
  const auto put = [&](MemoryRow& row, std::uint64_t offset, float value) {
    std::memcpy(row.deltas[3].data() + offset, &value, sizeof value);
  };
  put(*recorded[0], layer.key, std::numeric_limits<float>::infinity());
  put(*recorded[1], layer.value, std::numeric_limits<float>::quiet_NaN());
  const Rows steps = rows_of(model, recorded, step_by_step());
  const Rows rows = rows_of(model, recorded, in_parallel());
  for (std::size_t row = 0; row < rows.size(); ++row) {
    expect_close(*rows[row], *steps[row]);
    EXPECT_GE(rows[row]->steps[3].token, 0);
  }
  const bool injects = std::get<ReplayMode>(GetParam()) == ReplayMode::kInject;
  EXPECT_EQ(rows[1]->steps[4].token < 0, injects);
}

INSTANTIATE_TEST_SUITE_P(ModesAndCaches, ParallelReplay,
                         testing::Combine(testing::Values(ReplayMode::kInject, ReplayMode::kForced),
                                          testing::ValuesIn(policy_cases())),
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

TEST(ParallelReplayOnce, FreeModeIsRefused) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 4);
  ReplayBatch batch;
  batch.rows.push_back({recorded[0].get()});
  const Error error = error_of(
      [&] { std::ignore = replay_in_parallel(model, batch, parallel(ReplayMode::kFree), {}, {}); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
}

}  // namespace
}  // namespace kvtool::engine
