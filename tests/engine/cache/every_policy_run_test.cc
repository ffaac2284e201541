// Generation and replay under every cache policy of the table.
#include <gtest/gtest.h>

#include "engine/cache/policies.h"
#include "engine/cache/policy_param.h"
#include "engine/toy_run.h"
#include "engine/toy_state.h"

namespace kvtool::engine {
namespace {

using format::ReplayMode;

class EveryPolicyRun : public testing::TestWithParam<PolicyCase> {};

TEST_P(EveryPolicyRun, CountsTheRowsThatItChanges) {
  TorchModel model = toy_model();
  const std::vector<Input> inputs{{{1, 2, 3}}, {{4}}};
  const GenerateResult result =
      generate(model, inputs, {5, true, 4, 0, spec_of(GetParam())}, {}, {});
  // Prompts of 3 and of 1 token and 4 steps, in 2 layers.
  const bool changes = element_bits(GetParam()) != 0;
  EXPECT_EQ(result.cache_use.applied_rows, changes ? (7U + 5U) * 2 : 0U);
  EXPECT_EQ(result.cache_use.logical_bytes, (7 + 5) * model.info.geometry.position_bytes());
}

ReplayOptions options_of(ReplayMode mode, const PolicyCase& policy) {
  ReplayOptions options;
  options.mode = mode;
  options.allow_different_weights = true;
  options.kv_cache = spec_of(policy);
  return options;
}

TEST_P(EveryPolicyRun, RepeatsItsOwnGenerationToTheBitInEveryMode) {
  for (const DType dtype : kDTypes) {
    TorchModel model = toy_model(dtype);
    const Rows recorded = record(model, 12, spec_of(GetParam()));
    for (const format::ReplayModeInfo& info : format::kReplayModes) {
      const ReplayMode mode = info.mode;
      const Replayed replayed = run(model, recorded, options_of(mode, GetParam()));
      for (std::size_t row = 0; row < 2; ++row) {
        const MemoryRow& live = *replayed.rows[row];
        ASSERT_EQ(live.steps.size(), recorded[row]->steps.size());
        for (std::size_t step = 0; step < live.steps.size(); ++step) {
          EXPECT_EQ(live.steps[step].logits_digest, recorded[row]->steps[step].logits_digest);
        }
        EXPECT_EQ(live.deltas, recorded[row]->deltas);
        EXPECT_EQ(live.prompt_keys, recorded[row]->prompt_keys);
        EXPECT_EQ(live.prompt_values, recorded[row]->prompt_values);
        EXPECT_EQ(live.final_keys, recorded[row]->final_keys);
        EXPECT_EQ(live.final_values, recorded[row]->final_values);
      }
    }
  }
}

TEST_P(EveryPolicyRun, ASelectorThatShowsEverythingGivesTheBitsOfContiguous) {
  if (!selects(GetParam())) GTEST_SKIP() << "everything is seen in any case";
  if (pages_out(GetParam())) GTEST_SKIP() << "another order of sums: CombinedCache";
  for (const DType dtype : kDTypes) {
    TorchModel model = toy_model(dtype);
    const Rows plain = record(model, 12);
    const Rows recorded = record(model, 12, covering_spec_of(GetParam()));
    for (std::size_t row = 0; row < plain.size(); ++row) {
      EXPECT_EQ(plain[row]->prompt_values, recorded[row]->prompt_values);
      EXPECT_EQ(plain[row]->deltas, recorded[row]->deltas);
      for (std::size_t step = 0; step < plain[row]->steps.size(); ++step) {
        EXPECT_EQ(plain[row]->steps[step].logits_digest, recorded[row]->steps[step].logits_digest);
      }
    }
  }
}

TEST_P(EveryPolicyRun, ContiguousAloneGivesTheSameBits) {
  TorchModel model = toy_model();
  const Rows plain = record(model, 8);
  const Rows recorded = record(model, 8, spec_of(GetParam()));
  const bool changes = element_bits(GetParam()) != 0;
  if (pages_out(GetParam()) && !selects(GetParam()) && !changes) {
    // Parts of attention are summed in another order.
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      EXPECT_TRUE(at::allclose(told_state(*plain[1], layer, true),
                               told_state(*recorded[1], layer, true), 1e-4, 1e-5));
    }
    return;
  }
  EXPECT_EQ(plain[1]->deltas != recorded[1]->deltas, changes || selects(GetParam()));
  // Of those that select, one hides keys from the queries of a prompt, too.
  EXPECT_EQ(plain[1]->prompt_values != recorded[1]->prompt_values,
            changes || GetParam().name.starts_with("window"));
}

// V of layer 1 in a delta of the toy model.
at::Tensor values_of(const std::vector<std::byte>& delta) {
  constexpr std::int64_t kSize = ToyModule::kHeads * ToyModule::kDim;
  return elements(delta).narrow(0, 3 * kSize, kSize);
}

TEST_P(EveryPolicyRun, EveryFaultShowsInItsLayer) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 5, spec_of(GetParam()));
  for (const FaultKind kind :
       {FaultKind::kScaledValues, FaultKind::kRotatedKeys, FaultKind::kSwappedHeads,
        FaultKind::kStaleRow, FaultKind::kUnscaledInt8Keys, FaultKind::kNonfinite}) {
    ReplayOptions options = options_of(ReplayMode::kInject, GetParam());
    options.fault = Fault{kind, 1, 1, 1.0};
    const Replayed replayed = run(model, recorded, options);
    EXPECT_EQ(replayed.rows[0]->prompt_values, recorded[0]->prompt_values);
    EXPECT_NE(replayed.rows[0]->deltas[1], recorded[0]->deltas[1]) << static_cast<int>(kind);
    EXPECT_NE(replayed.rows[0]->steps[1].logits_digest, recorded[0]->steps[1].logits_digest);
  }
}

TEST_P(EveryPolicyRun, AFaultIsAsLargeAsItSays) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 5, unmeasured_spec_of(GetParam()));
  ReplayOptions options = options_of(ReplayMode::kInject, GetParam());
  options.kv_cache = unmeasured_spec_of(GetParam());  // a measured one would have no room for it
  options.fault = Fault{FaultKind::kScaledValues, 1, 0, 1.0};
  const Replayed replayed = run(model, recorded, options);
  for (std::size_t step = 0; step < 4; ++step) {
    const at::Tensor reference = values_of(recorded[1]->deltas[step]);
    // Twice an integer scale keeps every integer.
    EXPECT_TRUE(at::allclose(values_of(replayed.rows[1]->deltas[step]), reference * 2, 1e-4));
  }
}

// Beyond the 160 from which `kivi` quantizes.
constexpr std::int64_t kLongSteps = 200;

TEST_P(EveryPolicyRun, ALongRunEndsWithTheStateThatItsStepsSaid) {
  TorchModel model = toy_model();
  model.info.max_positions = 1000;
  // Else it ends with another state, and the policy's own test says which.
  const std::vector<std::int32_t> prompt{1};
  const BatchShape shape({prompt}, 1, 2);
  const bool keeps_rows =
      cache_maker(spec_of(GetParam()), model.rotations)(model.layout, shape, at::kCPU)
          ->is_append_only();
  for (const auto& row : record(model, kLongSteps, spec_of(GetParam()))) {
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      for (const bool value : {false, true}) {
        const at::Tensor state = final_state(*row, layer, value);
        ASSERT_EQ(state.size(1),
                  static_cast<std::int64_t>(row->prompt_ids.size()) + kLongSteps - 1);
        const bool stays =
            keeps_rows || leaves_alone(GetParam(), static_cast<std::uint64_t>(layer), value);
        EXPECT_EQ(state.equal(told_state(*row, layer, value)), stays);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, EveryPolicyRun, testing::ValuesIn(policy_cases()),
                         name_of_policy);

}  // namespace
}  // namespace kvtool::engine
