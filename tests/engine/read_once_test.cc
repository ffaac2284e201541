// A replay reads each byte of its references' K/V once, for the cache and the comparison.
#include <gmock/gmock.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/cache/policy_param.h"
#include "kvtool/analysis/row_comparison.h"
#include "support/counting_file_system.h"
#include "support/folder_test.h"
#include "support/kv_places.h"
#include "toy_run.h"

namespace kvtool::engine {
namespace {

using format::ReplayMode;
using format::SaveMode;

// Keeps from a comparison what the engine has read, so that it reads the reference itself.
class ReadingItself final : public format::RowSink {
 public:
  explicit ReadingItself(format::RowSink& sink) : sink_(sink) {}
  [[nodiscard]] Needs needs() const override { return sink_.needs(); }
  void on_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                        std::span<const std::byte> value) override {
    sink_.on_prefill_layer(layer, key, value);
  }
  void on_prefill_end(const format::StepStats& stats) override { sink_.on_prefill_end(stats); }
  void on_step(std::uint64_t step, const format::StepStats& stats,
               std::span<const std::byte> delta) override {
    sink_.on_step(step, stats, delta);
  }
  void on_final_layer(std::uint32_t, std::span<const std::byte>,
                      std::span<const std::byte>) override {}
  void on_end(const format::RowEnd& end) override { sink_.on_end(end); }

 private:
  format::RowSink& sink_;
};

class ReadOnce : public FolderTest {
 protected:
  static std::string path_of(std::size_t row) { return "row" + std::to_string(row) + ".kvc"; }

  // The rows of a toy generation, of which the model under test has other K/V.
  void write_recordings(SaveMode mode) {
    const Rows rows = record(model_, kTokens);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      MemoryRow& row = *rows[i];
      format::RecordingSinkOptions options;
      options.path = path_of(i);
      options.header = row.recording_header;
      options.header.uuid = format::random_uuid();
      options.header.save_mode = mode;
      options.header.prompt_length = row.prompt_ids.size();
      options.meta_json = "{}";
      options.prompt = row.prompt_ids;
      row.recording_header = options.header;
      const auto sink = format::make_recording_sink(options);
      for (std::uint32_t layer = 0; layer < 2 && mode != SaveMode::kFinalOnly; ++layer) {
        sink->on_prefill_layer(layer, row.prompt_keys[layer], row.prompt_values[layer]);
      }
      sink->on_prefill_end(row.first);
      for (std::size_t step = 0; step < row.steps.size(); ++step) {
        sink->on_step(step, row.steps[step],
                      mode == SaveMode::kDelta ? std::span<const std::byte>(row.deltas[step])
                                               : std::span<const std::byte>());
      }
      for (std::uint32_t layer = 0; layer < 2 && mode == SaveMode::kFinalOnly; ++layer) {
        sink->on_final_layer(layer, row.final_keys[layer], row.final_values[layer]);
      }
      sink->on_end({});
    }
  }

  struct Comparisons {
    std::vector<std::unique_ptr<format::Recording>> recordings;
    std::vector<std::unique_ptr<format::RowSource>> sources;
    std::vector<std::unique_ptr<analysis::RowComparator>> comparators;
    std::vector<std::unique_ptr<ReadingItself>> readers;
  };

  // A third row stands in for a missing one: it has the reference of the first and no sink.
  Comparisons replay_all(TorchModel& model, const ReplayOptions& options, bool handed_over = true) {
    Comparisons made;
    ReplayBatch batch;
    std::vector<format::RowSink*> sinks;
    for (std::size_t i = 0; i < 2; ++i) {
      made.recordings.push_back(std::make_unique<format::Recording>(
          format::Recording::open(path_of(i), {.file_system = &counting_})));
      made.sources.push_back(format::make_row_source(*made.recordings.back()));
      made.comparators.push_back(std::make_unique<analysis::RowComparator>(*made.sources.back()));
      made.readers.push_back(std::make_unique<ReadingItself>(*made.comparators.back()));
      batch.rows.push_back({made.sources.back().get()});
      batch.padded_length =
          std::max<std::uint64_t>(batch.padded_length, made.sources.back()->prompt().size());
      sinks.push_back(handed_over ? static_cast<format::RowSink*>(made.comparators.back().get())
                                  : made.readers.back().get());
    }
    if (!options.parallel) batch.rows.push_back(batch.rows.front());
    sinks.push_back(nullptr);
    counting_.forget_reads();
    if (options.parallel) {
      replay_in_parallel(model, batch, options, sinks, {});
    } else {
      replay(model, batch, options, sinks, {});
    }
    return made;
  }

  void expect_kv_read(std::uint32_t times) const {
    for (std::size_t i = 0; i < 2; ++i) {
      const std::vector<FilePart> places = kv_places(path_of(i));
      EXPECT_GE(places.size(), 4U);
      for (const FilePart& place : places) {
        EXPECT_EQ(counting_.reads(path_of(i), place.offset, place.bytes), std::pair(times, times))
            << path_of(i) << " from byte " << place.offset;
      }
    }
  }

  static constexpr std::uint64_t kTokens = 20;  // more steps than are under way at a time
  TorchModel model_ = toy_model();
  CountingFileSystem counting_;
};

struct ReadCase {
  SaveMode save_mode = SaveMode::kDelta;
  bool parallel = false;
  const char* policy = "contiguous";
};

class EveryCase : public ReadOnce, public testing::WithParamInterface<ReadCase> {};

INSTANTIATE_TEST_SUITE_P(
    ReadOnce, EveryCase,
    testing::Values(ReadCase{.save_mode = SaveMode::kDelta},
                    ReadCase{.save_mode = SaveMode::kPrefillOnly},
                    ReadCase{.save_mode = SaveMode::kFinalOnly}, ReadCase{.parallel = true},
                    ReadCase{.save_mode = SaveMode::kFinalOnly, .parallel = true},
                    ReadCase{.policy = "int8"}, ReadCase{.parallel = true, .policy = "int8"}));

TEST_P(EveryCase, InjectReadsEachByteOfKvOnce) {
  write_recordings(GetParam().save_mode);
  ReplayOptions options;
  options.parallel = GetParam().parallel;
  options.kv_cache = cache::CacheSpec::parse(GetParam().policy);
  const Comparisons made = replay_all(model_, options);
  expect_kv_read(1);
  for (const auto& comparator : made.comparators) {
    EXPECT_EQ(comparator->result().tokens.size(), kTokens);
    EXPECT_EQ(comparator->result().uncompared_steps, 0U);
  }
}

TEST_F(ReadOnce, ForcedReadsEachByteOfKvOnce) {
  write_recordings(SaveMode::kDelta);
  ReplayOptions options;
  options.mode = ReplayMode::kForced;
  replay_all(model_, options);
  expect_kv_read(1);
  options.parallel = true;
  replay_all(model_, options);
  expect_kv_read(1);
}

// What the counts above would say if the comparison read the reference once more.
TEST_F(ReadOnce, AComparisonThatReadsItselfMakesItTwice) {
  write_recordings(SaveMode::kDelta);
  replay_all(model_, {}, /*handed_over=*/false);
  expect_kv_read(2);
}

// Of a model with other weights, so that there is something to compare. Small passes cut the
// rows of a parallel replay.
TEST_P(EveryCase, WhatIsHandedOverComparesLikeWhatIsRead) {
  write_recordings(GetParam().save_mode);
  TorchModel other = toy_model(DType::kFloat32, /*weights=*/2);
  ReplayOptions options;
  options.allow_different_weights = true;
  options.parallel = GetParam().parallel;
  options.parallel_memory_bytes = 2 * 1024 * 1024;
  options.kv_cache = cache::CacheSpec::parse(GetParam().policy);
  const Comparisons handed = replay_all(other, options);
  const Comparisons read = replay_all(other, options, /*handed_over=*/false);
  for (std::size_t row = 0; row < 2; ++row) {
    const analysis::RowComparison& a = handed.comparators[row]->result();
    const analysis::RowComparison& b = read.comparators[row]->result();
    EXPECT_EQ(a.matches(), b.matches());
    EXPECT_EQ(a.live_tokens, b.live_tokens);
    EXPECT_EQ(a.first_bit_difference, b.first_bit_difference);
    EXPECT_EQ(a.prefill_kv.total().elements, b.prefill_kv.total().elements);
    EXPECT_GT(a.prefill_kv.total().sum_squared_error, 0.0);
    EXPECT_EQ(a.prefill_kv.total().sum_squared_error, b.prefill_kv.total().sum_squared_error);
    EXPECT_EQ(a.step_kv.total().elements, b.step_kv.total().elements);
    EXPECT_EQ(a.step_kv.total().sum_squared_error, b.step_kv.total().sum_squared_error);
    EXPECT_EQ(a.step_kv.total().sum_squared_error > 0.0,
              GetParam().save_mode != SaveMode::kPrefillOnly);
  }
}

}  // namespace
}  // namespace kvtool::engine
