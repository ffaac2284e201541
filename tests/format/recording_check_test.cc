#include "kvtool/format/recording_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "sample.h"
#include "support/error_of.h"

namespace kvtool::format {
namespace {

using testing::HasSubstr;

// What a run computes again, and where it may be made to differ.
struct Again {
  std::uint64_t steps = kSteps;
  StopReason stop_reason = StopReason::kMaxNewTokens;
  std::function<void(std::uint64_t step, StepStats& stats, Bytes& delta)> change_step = {};
  std::function<void(std::uint32_t layer, Bytes& key, Bytes& value)> change_layer = {};
  std::function<void(StepStats& stats)> change_prefill = {};
};

void feed(RowSink& sink, const RecordingHeader& header, const Again& again) {
  const RowSink::Needs needs = sink.needs();
  const auto layers = [&](std::uint64_t positions, auto receive) {
    for (std::uint32_t layer = 0; layer < header.geometry.num_layers(); ++layer) {
      Bytes key = sample_key(header.geometry, layer, positions);
      Bytes value = sample_value(header.geometry, layer, positions);
      if (again.change_layer) again.change_layer(layer, key, value);
      receive(layer, key, value);
    }
  };
  if (needs.prefill_kv) {
    layers(header.prompt_length,
           [&](auto layer, auto& key, auto& value) { sink.on_prefill_layer(layer, key, value); });
  }
  StepStats prefill = sample_prefill_stats(header);
  prefill.elapsed_ns += 5;
  if (again.change_prefill) again.change_prefill(prefill);
  sink.on_prefill_end(prefill);
  for (std::uint64_t step = 0; step < again.steps; ++step) {
    StepStats stats = sample_stats(header, step);
    stats.elapsed_ns += 5;
    Bytes delta =
        needs.step_kv ? sample_delta(header.geometry, header.prompt_length + step) : Bytes();
    if (again.change_step) again.change_step(step, stats, delta);
    sink.on_step(step, stats, delta);
  }
  if (needs.final_kv) {
    layers(header.prompt_length + again.steps,
           [&](auto layer, auto& key, auto& value) { sink.on_final_layer(layer, key, value); });
  }
  sink.on_end({again.stop_reason, 1.0, 1.0});
}

class RecordingCheckTest : public testing::TestWithParam<SaveMode> {
 protected:
  void check(const Again& again) {
    MemoryFileSystem files;
    RecordingHeader header = sample_header(GetParam());
    header.logits_sample = 3;
    const auto sink = make_recording_sink({.path = "x.kvc",
                                           .header = header,
                                           .meta_json = "{}",
                                           .prompt = sample_prompt(header),
                                           .token_text = {},
                                           .writer = {.file_system = &files}});
    feed(*sink, header, {});
    const Recording recording = Recording::open("x.kvc", {.file_system = &files});
    feed(*make_recording_check(recording), header, again);
  }

  void expect_difference(const Again& again, const std::string& what) {
    const Error error = error_of([&] { check(again); });
    EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
    EXPECT_THAT(error.what(), HasSubstr("x.kvc: computed again, " + what));
  }
};

INSTANTIATE_TEST_SUITE_P(RecordingCheck, RecordingCheckTest,
                         testing::Values(SaveMode::kDelta, SaveMode::kPrefillOnly,
                                         SaveMode::kFinalOnly),
                         [](const auto& mode) { return std::string(save_mode_name(mode.param)); });

TEST_P(RecordingCheckTest, TheSameRowPassesHoweverLongItTook) { EXPECT_NO_THROW(check({})); }

TEST_P(RecordingCheckTest, AnotherTokenOrLogitIsNamedWithItsStep) {
  expect_difference({.change_step =
                         [](auto step, auto& stats, auto&) {
                           if (step == 1) stats.token = 0;
                         }},
                    "step 1 differs from the recording: another token");
  expect_difference({.change_step =
                         [](auto step, auto& stats, auto&) {
                           if (step == 2) stats.logits_digest ^= 1;
                         }},
                    "step 2 differs from the recording: other logits");
  expect_difference(
      {.change_step = [](auto, auto& stats,
                         auto&) { stats.logsumexp = std::nextafter(stats.logsumexp, 100.0); }},
      "step 0 differs from the recording: other logits");
  expect_difference({.change_step = [](auto, auto& stats, auto&) { stats.top_logits[1] += 1; }},
                    "step 0 differs from the recording: other logits");
  expect_difference({.change_step = [](auto, auto& stats, auto&) { stats.sampled_logits[2] += 1; }},
                    "step 0 differs from the recording: other logits");
  expect_difference({.change_prefill = [](auto& stats) { stats.top_ids[1] += 1; }},
                    "the prompt differs from the recording: other logits");
}

TEST_P(RecordingCheckTest, AnotherEndIsNoticed) {
  if (GetParam() != SaveMode::kFinalOnly) {
    expect_difference({.steps = kSteps - 1}, "step 2 differs from the recording: the recording");
  }
  expect_difference({.steps = kSteps + 1}, "step 3 differs from the recording: the recording ends");
  expect_difference({.stop_reason = StopReason::kEndOfSequence}, "the end differs");
}

TEST_P(RecordingCheckTest, OneOtherByteOfTheStateIsNamedWithItsLayer) {
  const std::string where =
      GetParam() == SaveMode::kFinalOnly ? "the end state differs" : "the prompt differs";
  expect_difference({.change_layer =
                         [](auto layer, auto& key, auto&) {
                           if (layer == 1) key.back() ^= std::byte{1};
                         }},
                    where + " from the recording: other K in layer 1");
  expect_difference({.change_layer = [](auto, auto&, auto& value) { value[0] ^= std::byte{1}; }},
                    where + " from the recording: other V in layer 0");
}

TEST_P(RecordingCheckTest, OneOtherByteOfAStepsRowsIsNamedAndGapsAreNot) {
  if (GetParam() != SaveMode::kDelta) GTEST_SKIP() << "no rows in the steps";
  const RecordingHeader header = sample_header(GetParam());
  const RowOffset row = header.geometry.row_offset(1);
  expect_difference(
      {.change_step = [&](auto, auto&, auto& delta) { delta[row.value] ^= std::byte{1}; }},
      "step 0 differs from the recording: other V in layer 1");
  const std::uint64_t gap = row.key + header.geometry.layer(1).key_bytes();
  ASSERT_LT(gap, row.value);
  EXPECT_NO_THROW(
      check({.change_step = [&](auto, auto&, auto& delta) { delta[gap] = std::byte{0xee}; }}));
}

}  // namespace
}  // namespace kvtool::format
