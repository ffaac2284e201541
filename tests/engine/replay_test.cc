// Generation and the three replay modes on a toy model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "memory_row.h"
#include "support/error_of.h"
#include "toy_run.h"

namespace kvtool::engine {
namespace {

using format::ReplayMode;

void cut(MemoryRow& row, std::size_t steps) {
  row.steps.resize(steps);
  row.deltas.resize(steps);
}

// Everything but the time that it took and what only a replay has.
void expect_equal(std::vector<format::StepStats> a, std::vector<format::StepStats> b) {
  for (auto* stats : {&a, &b}) {
    for (format::StepStats& step : *stats) {
      step.elapsed_ns = 0;
      step.at_reference_top.clear();
    }
  }
  EXPECT_EQ(a, b);
}

// As float32, whatever they are stored as.
at::Tensor elements(const std::vector<std::byte>& bytes, at::ScalarType dtype = at::kFloat) {
  const auto size = static_cast<std::int64_t>(at::elementSize(dtype));
  const at::Tensor tensor = at::empty({static_cast<std::int64_t>(bytes.size()) / size}, dtype);
  std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  return tensor.to(at::kFloat);
}

// K or V of one layer in a float32 delta.
at::Tensor entry(const std::vector<std::byte>& delta, std::int64_t layer, bool value) {
  constexpr std::int64_t kSize = ToyModule::kHeads * ToyModule::kDim;
  return elements(delta).narrow(0, (2 * layer + (value ? 1 : 0)) * kSize, kSize);
}

TEST(Replay, EveryModeRepeatsTheGenerationToTheBit) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 8);
  for (const format::ReplayModeInfo& info : format::kReplayModes) {
    const ReplayMode mode = info.mode;
    const Replayed replayed = run(model, recorded, {mode});
    for (std::size_t row = 0; row < 2; ++row) {
      expect_equal({replayed.rows[row]->first}, {recorded[row]->first});
      expect_equal(replayed.rows[row]->steps, recorded[row]->steps);
      EXPECT_EQ(replayed.rows[row]->deltas, recorded[row]->deltas);
      EXPECT_EQ(replayed.rows[row]->prompt_keys, recorded[row]->prompt_keys);
      EXPECT_EQ(replayed.rows[row]->final_values, recorded[row]->final_values);
    }
  }
}

TEST(Replay, OnlyInjectRunsOnTheReferencesKv) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 4);
  const std::vector<std::vector<std::byte>> own_prompt = recorded[0]->prompt_values;
  const std::vector<format::StepStats> own_steps = recorded[0]->steps;
  recorded[0]->prompt_values[0].assign(own_prompt[0].size(), std::byte{0x40});
  for (const format::ReplayModeInfo& info : format::kReplayModes) {
    const ReplayMode mode = info.mode;
    const Replayed replayed = run(model, recorded, {mode});
    EXPECT_EQ(replayed.rows[0]->prompt_values, own_prompt);
    const bool injected = mode == ReplayMode::kInject;
    EXPECT_EQ(replayed.rows[0]->steps[0].logits_digest == own_steps[0].logits_digest, !injected);
    EXPECT_EQ(replayed.rows[0]->final_values == recorded[0]->final_values, !injected);
  }
}

TEST(Replay, InjectJudgesEveryStepOnTheReferencesHistory) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 5);
  const std::vector<format::StepStats> own = recorded[0]->steps;
  recorded[0]->deltas[1].assign(recorded[0]->deltas[1].size(), std::byte{0x40});
  const Replayed inject = run(model, recorded, {ReplayMode::kInject});
  EXPECT_EQ(inject.rows[0]->steps[1].logits_digest, own[1].logits_digest);
  EXPECT_NE(inject.rows[0]->steps[2].logits_digest, own[2].logits_digest);
  const Replayed forced = run(model, recorded, {ReplayMode::kForced});
  expect_equal(forced.rows[0]->steps, own);
}

TEST(Replay, OnlyFreeModeFeedsItsOwnTokens) {
  TorchModel recorder = toy_model();
  TorchModel model = toy_model(DType::kFloat32, 2);
  const Rows recorded = record(recorder, 8);
  for (const format::ReplayModeInfo& info : format::kReplayModes) {
    const ReplayMode mode = info.mode;
    const Replayed replayed = run(model, recorded, {mode, true});
    for (std::size_t row = 0; row < 2; ++row) {
      const MemoryRow& live = *replayed.rows[row];
      ASSERT_NE(live.first.token, recorded[row]->first.token);  // or the test says nothing
      if (mode != ReplayMode::kFree) {
        EXPECT_EQ(live.fed_tokens(), recorded[row]->fed_tokens());
        continue;
      }
      ASSERT_EQ(live.steps.size(), recorded[row]->steps.size());
      std::int32_t chosen = live.first.token;
      for (const format::StepStats& step : live.steps) {
        EXPECT_EQ(step.input_token, chosen);
        chosen = step.token;
      }
    }
  }
}

TEST(Replay, FreeModeIsWhatTheModelGeneratesAlone) {
  TorchModel recorder = toy_model();
  TorchModel model = toy_model(DType::kFloat32, 2);
  const Rows recorded = record(recorder, 6);
  const Rows alone = record(model, 6);
  const Replayed replayed = run(model, recorded, {ReplayMode::kFree, true});
  for (std::size_t row = 0; row < 2; ++row) {
    expect_equal(replayed.rows[row]->steps, alone[row]->steps);
    EXPECT_EQ(replayed.rows[row]->deltas, alone[row]->deltas);
  }
}

TEST(Replay, ARowThatEndedIsSilentAndKeepsFeedingItsLastToken) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 8);
  const std::int32_t last = recorded[0]->steps[2].token;
  cut(*recorded[0], 3);
  for (const format::ReplayModeInfo& info : format::kReplayModes) {
    const ReplayMode mode = info.mode;
    module_of(model).fed.clear();
    const Replayed replayed = run(model, recorded, {mode});
    EXPECT_EQ(replayed.rows[0]->steps.size(), 3U);
    EXPECT_EQ(replayed.rows[1]->steps.size(), 7U);
    for (std::size_t step = 3; step < 7; ++step) {
      EXPECT_EQ(module_of(model).fed[1 + step][0][0].item<std::int32_t>(), last);
    }
  }
}

TEST(Replay, FreeModeFeedsTheRecordedTokenWhereThereIsNoFiniteChoice) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 6);
  module_of(model).nan_at_pass = 2;  // step 1
  const Replayed replayed = run(model, recorded, {ReplayMode::kFree});
  for (std::size_t row = 0; row < 2; ++row) {
    EXPECT_EQ(replayed.rows[row]->steps[1].token, -1);
    EXPECT_EQ(replayed.rows[row]->fed_tokens(), recorded[row]->fed_tokens());
  }
}

TEST(Replay, ReferencesWithoutAnyChoiceAreReplayed) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 4);
  recorded[0]->first.token = -1;
  recorded[0]->steps.back().token = -1;
  for (const format::ReplayModeInfo& info : format::kReplayModes) {
    const ReplayMode mode = info.mode;
    module_of(model).fed.clear();
    module_of(model).nan_at_pass = 0;
    EXPECT_NO_THROW(run(model, recorded, {mode}));
  }
}

TEST(Replay, SaysWhichRowsRanOnTheDevicesOwnKv) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 3);
  recorded[1]->with_step_kv = false;
  EXPECT_EQ(run(model, recorded, {ReplayMode::kInject}).result.own_step_kv,
            (std::vector<bool>{false, true}));
  for (const ReplayMode mode : {ReplayMode::kForced, ReplayMode::kFree}) {
    EXPECT_EQ(run(model, recorded, {mode}).result.own_step_kv, (std::vector<bool>{true, true}));
  }
}

TEST(Replay, ConvertsTheReferencesKvToTheModelsDtype) {
  TorchModel half = toy_model(DType::kBFloat16);
  TorchModel model = toy_model(DType::kFloat32);
  const Rows recorded = record(half, 5);
  EXPECT_THROW(run(model, recorded, {}), Error);
  const Replayed replayed = run(model, recorded, {ReplayMode::kInject, true});
  for (std::size_t row = 0; row < 2; ++row) {
    const MemoryRow& live = *replayed.rows[row];
    EXPECT_EQ(live.deltas[0].size(), model.info.geometry.delta_bytes());
    for (std::size_t layer = 0; layer < 2; ++layer) {
      EXPECT_TRUE(elements(live.final_values[layer])
                      .equal(elements(recorded[row]->final_values[layer], at::kBFloat16)));
    }
  }
}

TEST(Replay, AFaultReachesTheSinksInItsLayerAlone) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 5);
  const Replayed replayed = run(
      model, recorded, {ReplayMode::kInject, false, Fault{FaultKind::kScaledValues, 1, 0, 1.0}});
  EXPECT_EQ(replayed.rows[0]->prompt_values, recorded[0]->prompt_values);
  for (std::size_t step = 0; step < 4; ++step) {
    const auto& live = replayed.rows[1]->deltas[step];
    const auto& reference = recorded[1]->deltas[step];
    EXPECT_TRUE(entry(live, 0, false).equal(entry(reference, 0, false)));
    EXPECT_TRUE(entry(live, 0, true).equal(entry(reference, 0, true)));
    EXPECT_TRUE(entry(live, 1, false).equal(entry(reference, 1, false)));
    EXPECT_TRUE(entry(live, 1, true).equal(entry(reference, 1, true) * 2));
    EXPECT_NE(replayed.rows[1]->steps[step].logits_digest, recorded[1]->steps[step].logits_digest);
  }
}

TEST(Replay, RotatedKeysAreThoseOfTheNextPosition) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 5);
  for (const ReplayMode mode : {ReplayMode::kInject, ReplayMode::kForced}) {
    const Replayed replayed =
        run(model, recorded, {mode, false, Fault{FaultKind::kRotatedKeys, 1, 0, 1.0}});
    for (std::size_t step = 0; step < 4; ++step) {
      const auto& live = replayed.rows[1]->deltas[step];
      const auto& reference = recorded[1]->deltas[step];
      EXPECT_TRUE(at::allclose(entry(live, 1, false),
                               entry(reference, 1, false) + ToyModule::kKeyPerPosition));
      EXPECT_TRUE(entry(live, 1, true).equal(entry(reference, 1, true)));
      EXPECT_TRUE(entry(live, 0, false).equal(entry(reference, 0, false)));
    }
  }
}

TEST(Replay, RefusesAFaultThatTheModelCannotHave) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 3);
  const Error error = error_of([&] {
    run(model, recorded, {ReplayMode::kForced, false, Fault{FaultKind::kScaledValues, 9, 0, 1.0}});
  });
  EXPECT_EQ(error.code(), ErrorCode::kMisuse);
}

TEST(Generate, NamesALayerThatTheModelSkips) {
  TorchModel model = toy_model(DType::kFloat32, 1, /*layers=*/1);
  const Error error = error_of([&] { record(model, 3); });
  EXPECT_THAT(error.what(), testing::HasSubstr("skipped attention in layer 1"));
}

}  // namespace
}  // namespace kvtool::engine
