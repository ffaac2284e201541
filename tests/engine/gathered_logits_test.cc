// Logits that are gathered at the ids of a sample and of a reference's top-k, against all logits
// that the module returned.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kvtool/format/logit_sample.h"
#include "support/error_of.h"
#include "support/folder_test.h"
#include "toy_run.h"

namespace kvtool::engine {
namespace {

using format::ReplayMode;
using testing::Each;
using testing::IsEmpty;
using testing::IsNan;

std::vector<float> at_ids(const at::Tensor& logits, const std::vector<std::int32_t>& ids) {
  std::vector<float> values;
  for (const std::int32_t id : ids) values.push_back(logits[id].item<float>());
  return values;
}

std::vector<float> at_sample(const at::Tensor& logits, std::uint64_t token,
                             std::uint32_t size = 5) {
  return at_ids(logits, format::sampled_ids(ToyModule::kVocab, size, token));
}

// Of a run step by step, by token and row: [vocab].
at::Tensor logits_of(TorchModel& model, std::size_t token, std::size_t row) {
  return module_of(model).returned.at(token)[static_cast<std::int64_t>(row)][-1];
}

const format::StepStats& stats_of(const MemoryRow& row, std::size_t token) {
  return token == 0 ? row.first : row.steps.at(token - 1);
}

void expect_gathered(const format::StepStats& live, const format::StepStats& reference,
                     std::uint64_t token, const at::Tensor& logits) {
  EXPECT_EQ(reference.top_ids.size(), 4U);
  EXPECT_EQ(live.at_reference_top, at_ids(logits, reference.top_ids)) << "token " << token;
  EXPECT_EQ(live.sampled_logits, at_sample(logits, token)) << "token " << token;
}

// Row 0 ends after three steps, row 1 after seven.
Rows record_of_two_lengths(TorchModel& model) {
  Rows rows = record(model, 8);
  rows[0]->steps.resize(3);
  rows[0]->deltas.resize(3);
  return rows;
}

class Gathering : public testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(Dtypes, Gathering,
                         testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat16));

TEST_P(Gathering, AGenerationHasThoseOfItsSample) {
  TorchModel model = toy_model(GetParam());
  std::vector<MemoryRow> rows(2);
  const std::vector<Input> inputs{{{1, 2, 3}}, {{4, 5, 6, 7, 8}}};
  const std::vector<format::RowSink*> sinks{&rows[0], &rows[1]};
  std::ignore = generate(model, inputs, {6, true, 4, 5}, sinks, {});
  for (std::size_t row = 0; row < 2; ++row) {
    for (std::size_t token = 0; token < 6; ++token) {
      const format::StepStats& stats = stats_of(rows[row], token);
      EXPECT_EQ(stats.sampled_logits, at_sample(logits_of(model, token, row), token));
      EXPECT_THAT(stats.at_reference_top, IsEmpty());
    }
  }
}

TEST(GatheringOnce, ASampleIsAtMostTheVocabulary) {
  TorchModel model = toy_model();
  MemoryRow row;
  const std::vector<Input> inputs{{{1, 2, 3}}};
  const std::vector<format::RowSink*> sinks{&row};
  std::ignore = generate(model, inputs, {2, true, 4, 64}, sinks, {});
  EXPECT_EQ(row.first.sampled_logits,
            at_sample(logits_of(model, 0, 0), 0, /*size=*/ToyModule::kVocab));
  EXPECT_EQ(row.first.sampled_logits.size(), 16U);
}

// In free mode the tokens part at once: the model has other weights.
TEST_P(Gathering, AReplayHasThoseAtTheReferencesIds) {
  TorchModel recorder = toy_model(GetParam());
  const Rows recorded = record_of_two_lengths(recorder);
  for (const format::ReplayModeInfo& info : format::kReplayModes) {
    TorchModel model = toy_model(GetParam(), /*weights=*/2);
    const Replayed replayed = run(model, recorded, {info.mode, true});
    for (std::size_t row = 0; row < 2; ++row) {
      const MemoryRow& live = *replayed.rows[row];
      ASSERT_EQ(live.steps.size(), recorded[row]->steps.size());
      EXPECT_NE(live.first.token, recorded[row]->first.token);
      for (std::size_t token = 0; token <= live.steps.size(); ++token) {
        expect_gathered(stats_of(live, token), stats_of(*recorded[row], token), token,
                        logits_of(model, token, row));
      }
    }
  }
}

// Passes take the rows in order, and of each the prompt and then its steps.
TEST_P(Gathering, AParallelReplayHasThemAtEveryTokenOfAPass) {
  TorchModel recorder = toy_model(GetParam());
  const Rows recorded = record_of_two_lengths(recorder);
  for (const std::uint64_t memory : {std::uint64_t{1}, std::uint64_t{1} << 30}) {
    TorchModel model = toy_model(GetParam(), /*weights=*/2);
    ReplayOptions options{ReplayMode::kInject, true};
    options.parallel = true;
    options.parallel_memory_bytes = memory;
    const Replayed replayed = run(model, recorded, options);
    std::vector<at::Tensor> passes;
    for (const at::Tensor& logits : module_of(model).returned) passes.push_back(logits[0]);
    EXPECT_EQ(passes.size() == 1, memory > 1);
    const at::Tensor all = at::cat(passes);
    std::int64_t next = 0;
    for (std::size_t row = 0; row < 2; ++row) {
      const MemoryRow& live = *replayed.rows[row];
      for (std::size_t token = 0; token <= live.steps.size(); ++token) {
        expect_gathered(stats_of(live, token), stats_of(*recorded[row], token), token, all[next]);
        ++next;
      }
    }
    EXPECT_EQ(next, all.size(0));
  }
}

TEST(GatheringOnce, OfAReplayWithTheSameWeightsAreTheRecordedOnes) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 8);
  const Replayed replayed = run(model, recorded, {});
  for (std::size_t token = 0; token < 8; ++token) {
    EXPECT_EQ(stats_of(*replayed.rows[1], token).at_reference_top,
              stats_of(*recorded[1], token).top_logits);
    EXPECT_EQ(stats_of(*replayed.rows[1], token).sampled_logits,
              stats_of(*recorded[1], token).sampled_logits);
  }
}

TEST(GatheringOnce, NanIsGatheredAsNan) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 4);
  module_of(model).nan_at_pass = 2;  // step 1
  const Replayed replayed = run(model, recorded, {});
  const format::StepStats& stats = replayed.rows[0]->steps[1];
  EXPECT_EQ(stats.at_reference_top.size(), 4U);
  EXPECT_EQ(stats.sampled_logits.size(), 5U);
  EXPECT_THAT(stats.at_reference_top, Each(IsNan()));
  EXPECT_THAT(stats.sampled_logits, Each(IsNan()));
}

TEST(GatheringOnce, OfRecordingsWithoutASampleAreThoseOfTheTop) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 4);
  for (const auto& row : recorded) {
    row->recording_header.logits_sample = 0;
    row->first.sampled_logits.clear();
    for (format::StepStats& step : row->steps) step.sampled_logits.clear();
  }
  for (const bool parallel : {false, true}) {
    ReplayOptions options;
    options.parallel = parallel;
    const Replayed replayed = run(model, recorded, options);
    EXPECT_EQ(replayed.rows[0]->steps[2].at_reference_top.size(), 4U);
    EXPECT_THAT(replayed.rows[0]->steps[2].sampled_logits, IsEmpty());
  }
}

// An odd number of both, and neither.
TEST(GatheringOnce, OfRecordingsWithoutATop) {
  for (const std::uint32_t sample : {0U, 5U}) {
    TorchModel model = toy_model();
    const Rows recorded = record(model, 4);
    for (const auto& row : recorded) {
      row->recording_header.top_k = 0;
      row->recording_header.logits_sample = sample;
      row->first.top_ids.clear();
      for (format::StepStats& step : row->steps) step.top_ids.clear();
    }
    for (const bool parallel : {false, true}) {
      ReplayOptions options;
      options.parallel = parallel;
      const Replayed replayed = run(model, recorded, options);
      EXPECT_THAT(replayed.rows[0]->steps[2].at_reference_top, IsEmpty());
      EXPECT_EQ(replayed.rows[0]->steps[2].sampled_logits.size(), sample);
    }
  }
}

class RecordedSample : public FolderTest, public testing::WithParamInterface<DType> {};

INSTANTIATE_TEST_SUITE_P(Dtypes, RecordedSample,
                         testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat16));

TEST_P(RecordedSample, IsReadAsTheModuleReturnedIt) {
  TorchModel model = toy_model(GetParam());
  const std::vector<Input> inputs{{{1, 2, 3}}};
  format::RecordingSinkOptions options;
  options.path = "row.kvc";
  options.meta_json = "{}";
  options.prompt = {1, 2, 3};
  options.header.model_sha256 = model.info.weights_sha256;
  options.header.vocab_size = model.info.vocab_size;
  options.header.logits_dtype = model.info.logits_dtype;
  options.header.top_k = 4;
  options.header.logits_sample = 5;
  options.header.prompt_length = 3;
  options.header.geometry = model.info.geometry;
  const auto sink = format::make_recording_sink(options);
  const std::vector<format::RowSink*> sinks{sink.get()};
  std::ignore = generate(model, inputs, {4, true, 4, 5}, sinks, {});
  const auto recording = format::Recording::open("row.kvc");
  EXPECT_EQ(recording.header().logits_sample, 5U);
  EXPECT_EQ(recording.read_prefill_stats().sampled_logits, at_sample(logits_of(model, 0, 0), 0));
  for (std::uint64_t step = 0; step < 3; ++step) {
    EXPECT_EQ(recording.read_step_stats(step).sampled_logits,
              at_sample(logits_of(model, step + 1, 0), step + 1));
  }
}

}  // namespace
}  // namespace kvtool::engine
