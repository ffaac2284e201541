#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "analysis/memory_row.h"
#include "kvtool/analysis/row_comparison.h"
#include "support/error_of.h"

namespace kvtool::analysis {
namespace {

TEST(RowComparator, EqualRowsAreBitwiseEqual) {
  const MemoryRow row(mixed_geometry(), 2);
  RowComparator comparator(row);
  row.feed(comparator);

  const RowComparison& result = comparator.result();
  ASSERT_EQ(result.tokens.size(), 3U);
  EXPECT_EQ(result.tokens[2].index, 2U);
  EXPECT_EQ(result.matches(), 3U);
  EXPECT_FALSE(result.first_divergence().has_value());
  EXPECT_FALSE(result.first_bit_difference.has_value());
  EXPECT_TRUE(result.bitwise_equal());
  // Per position: 3 + 3 + 2 + 2 elements, all 1.
  EXPECT_EQ(result.prefill_kv.total().elements, 10U * kPromptLength);
  EXPECT_EQ(result.prefill_kv.total().sum_squared_reference, 10.0 * kPromptLength);
  EXPECT_EQ(result.step_kv.total().elements, 20U);
  EXPECT_EQ(result.step_kv.total().sum_squared_reference, 20.0);
  EXPECT_EQ(comparator.end().stop_reason, format::StopReason::kEndOfSequence);
  EXPECT_EQ(comparator.end().decode_seconds, 1.5);
}

TEST(RowComparator, SaysByWhichBoundsTokensWereJudged) {
  const MemoryRow row(mixed_geometry(), 1);
  RowComparator comparator(row, {.bounds = {.near_tie_ulps = 3.0, .noise_z = 5.0}});
  row.feed(comparator);
  EXPECT_EQ(comparator.result().bounds.near_tie_ulps, 3.0);
  EXPECT_EQ(comparator.result().bounds.noise_z, 5.0);
}

TEST(RowComparator, ZeroStepsCompareTheFirstTokenAndThePrompt) {
  const MemoryRow row(mixed_geometry(), 0);
  RowComparator comparator(row);
  row.feed(comparator);
  EXPECT_EQ(comparator.result().tokens.size(), 1U);
  EXPECT_EQ(comparator.result().matches(), 1U);
  EXPECT_EQ(comparator.result().step_kv.total().elements, 0U);
  EXPECT_TRUE(comparator.result().bitwise_equal());
}

// Live and recorded differ in a prompt row, a step's row and a token.
TEST(RowComparator, WhatIsHandedOverIsComparedWithoutReadingIt) {
  MemoryRow live(mixed_geometry(), 3);
  set_element(DType::kBFloat16, live.prefill[0].key, 2, 3.0F);
  set_element(DType::kFloat32, live.deltas[1], mixed_geometry().row_offset(1).key, 5.0F);
  live.stats[3].token = 31;
  const MemoryRow read(mixed_geometry(), 3);
  const MemoryRow handed(mixed_geometry(), 3);
  RowComparator reader(read);
  RowComparator receiver(handed);
  live.feed(reader);
  live.feed(receiver, &handed);
  EXPECT_EQ(read.reads, 2 + 3);
  EXPECT_EQ(handed.reads, 0);

  const RowComparison& a = reader.result();
  const RowComparison& b = receiver.result();
  EXPECT_EQ(b.matches(), a.matches());
  EXPECT_EQ(b.matches(), 3U);
  EXPECT_EQ(b.first_bit_difference, a.first_bit_difference);
  // (3 - 1)^2 of 30 elements, (5 - 1)^2 of 30.
  EXPECT_EQ(b.prefill_kv.total().sum_squared_error, 4.0);
  EXPECT_EQ(b.step_kv.total().sum_squared_error, 16.0);
  EXPECT_EQ(a.prefill_kv.total().sum_squared_error, 4.0);
  EXPECT_EQ(a.step_kv.total().sum_squared_error, 16.0);
}

// A layer or step that was handed over says nothing of another one.
TEST(RowComparator, WhatIsNotHandedOverIsRead) {
  const MemoryRow row(mixed_geometry(), 2);
  RowComparator comparator(row);
  comparator.on_reference_layer(1, row.prefill[1].key, row.prefill[1].value);
  comparator.on_reference_step(7, row.stats[1], row.deltas[0]);
  row.feed(comparator);
  EXPECT_EQ(row.reads, 2 + 2);
  EXPECT_TRUE(comparator.result().bitwise_equal());
}

TEST(RowComparator, RefusesAReferenceRowOfAnotherSize) {
  const MemoryRow row(mixed_geometry(), 1);
  RowComparator comparator(row);
  comparator.on_reference_layer(0, row.prefill[0].key, row.prefill[1].value);
  const Error error =
      error_of([&] { comparator.on_prefill_layer(0, row.prefill[0].key, row.prefill[0].value); });
  EXPECT_EQ(error.code(), ErrorCode::kMisuse);
  EXPECT_EQ(error.message(),
            "a reference's row was handed over with 6 bytes where its shape makes 18");
}

TEST(RowComparator, NeedsWhatTheReferenceHas) {
  MemoryRow row(mixed_geometry(), 1);
  EXPECT_TRUE(RowComparator(row).needs().prefill_kv);
  EXPECT_TRUE(RowComparator(row).needs().step_kv);
  EXPECT_FALSE(RowComparator(row).needs().final_kv);
  row.step_kv = false;
  EXPECT_TRUE(RowComparator(row).needs().prefill_kv);
  EXPECT_FALSE(RowComparator(row).needs().step_kv);
  row.prefill_kv = false;
  EXPECT_FALSE(RowComparator(row).needs().prefill_kv);
}

TEST(RowComparator, ReferenceWithoutStepKvComparesNoneEvenIfItIsHandedOver) {
  MemoryRow reference(mixed_geometry(), 1);
  reference.step_kv = false;
  MemoryRow live(mixed_geometry(), 1);
  live.deltas[0][0] ^= std::byte{1};
  RowComparator comparator(reference);
  comparator.on_prefill_end(live.stats[0]);
  comparator.on_step(0, live.stats[1], live.deltas[0]);
  EXPECT_EQ(comparator.result().step_kv.total().elements, 0U);
  EXPECT_EQ(comparator.result().tokens.size(), 2U);
  EXPECT_TRUE(comparator.result().bitwise_equal());
}

TEST(RowComparator, StepsThatTheLiveRowNeverTookAreUncompared) {
  const MemoryRow reference(mixed_geometry(), 5);
  const MemoryRow live(mixed_geometry(), 2);
  RowComparator comparator(reference);
  live.feed(comparator);
  EXPECT_EQ(comparator.result().tokens.size(), 3U);
  EXPECT_EQ(comparator.result().uncompared_steps, 3U);
  EXPECT_TRUE(comparator.result().logits_equal());
  EXPECT_FALSE(comparator.result().bitwise_equal());
}

TEST(RowComparator, StepsBeyondTheReferenceAreIgnored) {
  const MemoryRow reference(mixed_geometry(), 2);
  const MemoryRow live(mixed_geometry(), 5);
  RowComparator comparator(reference);
  live.feed(comparator);
  EXPECT_EQ(comparator.result().tokens.size(), 3U);
  EXPECT_EQ(comparator.result().step_kv.total().elements, 20U);
  EXPECT_EQ(comparator.result().uncompared_steps, 0U);
  EXPECT_EQ(comparator.result().live_tokens.size(), 6U);
}

TEST(RowComparator, PromptDifferenceIsMeasuredInItsOwnType) {
  const MemoryRow reference(mixed_geometry(), 1);
  MemoryRow live(mixed_geometry(), 1);
  set_element(DType::kBFloat16, live.prefill[0].value, 4, 3.0F);
  set_element(DType::kFloat32, live.prefill[1].key, 8, 0.0F);
  set_element(DType::kFloat8E4M3, live.prefill[1].value, 5, 1.5F);
  RowComparator comparator(reference);
  live.feed(comparator);

  const RowComparison& result = comparator.result();
  EXPECT_EQ(result.prefill_kv.total().differing, 3U);
  EXPECT_EQ(result.prefill_kv.total().sum_squared_error, 4.0 + 1.0 + 0.25);
  EXPECT_EQ(result.prefill_kv.total().max_abs, 2.0);
  EXPECT_EQ(result.first_bit_difference, 0U);
  EXPECT_FALSE(result.first_divergence().has_value());
  EXPECT_FALSE(result.bitwise_equal());
}

TEST(RowComparator, StepDifferenceIsMeasuredPerLayerInItsOwnType) {
  const MemoryRow reference(mixed_geometry(), 3);
  MemoryRow live(mixed_geometry(), 3);
  const Geometry& geometry = live.header().geometry;
  set_element(DType::kBFloat16, live.deltas[1], geometry.row_offset(0).key + 4, 3.0F);
  set_element(DType::kFloat32, live.deltas[1], geometry.row_offset(1).key + 4, 0.0F);
  set_element(DType::kFloat8E4M3, live.deltas[2], geometry.row_offset(1).value + 1, 1.5F);
  RowComparator comparator(reference);
  live.feed(comparator);

  const RowComparison& result = comparator.result();
  EXPECT_EQ(result.step_kv.total().elements, 30U);
  EXPECT_EQ(result.step_kv.total().differing, 3U);
  EXPECT_EQ(result.step_kv.total().sum_squared_error, 4.0 + 1.0 + 0.25);
  EXPECT_EQ(result.first_bit_difference, 2U);
}

TEST(RowComparator, AlignmentGapsAreNotCompared) {
  const MemoryRow reference(mixed_geometry(), 1);
  MemoryRow live(mixed_geometry(), 1);
  const Geometry& geometry = live.header().geometry;
  ASSERT_GT(geometry.row_offset(0).value, geometry.row_offset(0).key + 6);
  live.deltas[0][geometry.row_offset(0).key + 6] = std::byte{0xff};
  RowComparator comparator(reference);
  live.feed(comparator);
  EXPECT_TRUE(comparator.result().bitwise_equal());
}

TEST(RowComparator, RowsWithoutGapsCompareEveryElementOnce) {
  const MemoryRow reference(dense_geometry(), 1);
  MemoryRow live(dense_geometry(), 1);
  ASSERT_EQ(live.header().geometry.delta_bytes(), live.header().geometry.position_bytes());
  set_element(DType::kBFloat16, live.deltas[0], 30, 2.0F);
  RowComparator comparator(reference);
  live.feed(comparator);
  EXPECT_EQ(comparator.result().step_kv.total().elements, 16U);
  EXPECT_EQ(comparator.result().step_kv.total().differing, 1U);
}

TEST(RowComparator, CountsVerdictsAndFindsTheFirstDivergence) {
  const MemoryRow reference(dense_geometry(), 3);  // margins are 1 ulp
  MemoryRow live(dense_geometry(), 3);
  live.stats[1].logits_digest += 1;
  live.stats[2].token = 21;  // the recorded runner-up
  live.stats[3].token = -1;
  RowComparator comparator(reference);
  live.feed(comparator);

  const RowComparison& result = comparator.result();
  EXPECT_EQ(result.matches(), 2U);
  EXPECT_EQ(result.count(TokenVerdict::kTie), 1U);
  EXPECT_EQ(result.count(TokenVerdict::kNearTie), 0U);
  EXPECT_EQ(result.count(TokenVerdict::kHardFlip), 1U);
  EXPECT_EQ(result.first_divergence(), 2U);
  EXPECT_EQ(result.first_bit_difference, 1U);
  EXPECT_FALSE(result.bitwise_equal());
}

TEST(RowComparator, NonFiniteKvIsCountedEvenWhenBothSidesAgree) {
  MemoryRow row(dense_geometry(), 1);
  set_element(DType::kBFloat16, row.deltas[0], 0, std::numeric_limits<float>::quiet_NaN());
  RowComparator comparator(row);
  row.feed(comparator);
  EXPECT_TRUE(comparator.result().bitwise_equal());
  EXPECT_EQ(comparator.result().step_kv.total().nonfinite, 1U);
}

// Inject and forced: the recorded token is fed whatever was predicted.
TEST(RowComparator, MismatchAloneDoesNotPartTheContexts) {
  const MemoryRow reference(dense_geometry(), 3);
  MemoryRow live(dense_geometry(), 3);
  live.stats[1].token = 7;
  RowComparator comparator(reference);
  live.feed(comparator);
  EXPECT_EQ(comparator.result().tokens.size(), 4U);
  EXPECT_EQ(comparator.result().uncompared_steps, 0U);
  EXPECT_EQ(comparator.result().live_tokens, (std::vector<std::int32_t>{0, 7, 20, 30}));
}

// Free: step 1 is fed the 7 that step 0 predicted; later steps happen to be fed
// the recorded tokens again, on another history.
TEST(RowComparator, StepsAfterTheContextsPartedAreNotCompared) {
  const MemoryRow reference(dense_geometry(), 4);
  MemoryRow live(dense_geometry(), 4);
  live.stats[1].token = 7;
  live.stats[2].input_token = 7;
  live.stats[2].token = 55;
  set_element(DType::kBFloat16, live.deltas[1], 0, 100.0F);
  RowComparator comparator(reference);
  live.feed(comparator);

  const RowComparison& result = comparator.result();
  ASSERT_EQ(result.tokens.size(), 2U);
  EXPECT_EQ(result.tokens[1].predicted, 7);
  EXPECT_EQ(result.uncompared_steps, 3U);
  EXPECT_EQ(result.step_kv.num_positions(), 1U);
  EXPECT_EQ(result.step_kv.total().differing, 0U);
  EXPECT_EQ(result.live_tokens, (std::vector<std::int32_t>{0, 7, 55, 30, 40}));
  EXPECT_FALSE(result.bitwise_equal());
}

TEST(RowComparator, ErrorsAreSortedIntoLayersHeadsAndBlocks) {
  // K rows of one layer with 2 heads of 4.
  const Geometry geometry({LayerGeometry{DType::kBFloat16, DType::kBFloat16, 2, 4, 4}});
  const MemoryRow reference(geometry, 3);
  MemoryRow live(geometry, 3);
  // Prompt K is [2 heads, 3 positions, 4]: head 1, position 2.
  set_element(DType::kBFloat16, live.prefill[0].key, 2 * (4 * (1 * 3 + 2)), 3.0F);
  // Step 1, V of head 1.
  set_element(DType::kBFloat16, live.deltas[1], geometry.row_offset(0).value + 2 * 5, 2.0F);
  RowComparator comparator(reference, {.block_positions = 2});
  live.feed(comparator);

  const KvProfile& prompt = comparator.result().prefill_kv;
  EXPECT_EQ(prompt.num_blocks(), 2U);
  EXPECT_EQ(prompt.cell(KvKind::kKey, 0, 1, 1).sum_squared_error, 4.0);
  EXPECT_EQ(prompt.total().sum_squared_error, 4.0);
  EXPECT_EQ(prompt.cell(KvKind::kKey, 0, 0, 0).elements, 8U);
  EXPECT_EQ(prompt.cell(KvKind::kKey, 0, 0, 1).elements, 4U);
  // 8 elements of 1 in the row of both heads, one of them off by 2.
  EXPECT_FLOAT_EQ(prompt.row_error(KvKind::kKey, 0, 2), std::sqrt(4.0F / 8.0F));
  EXPECT_EQ(prompt.row_error(KvKind::kKey, 0, 1), 0.0F);
  EXPECT_EQ(prompt.row_error(KvKind::kValue, 0, 2), 0.0F);

  const KvProfile& steps = comparator.result().step_kv;
  EXPECT_EQ(steps.num_positions(), 3U);
  EXPECT_EQ(steps.cell(KvKind::kValue, 0, 1, 0).sum_squared_error, 1.0);
  EXPECT_EQ(steps.total().sum_squared_error, 1.0);
  EXPECT_FLOAT_EQ(steps.row_error(KvKind::kValue, 0, 1), std::sqrt(1.0F / 8.0F));
  EXPECT_EQ(steps.row_error(KvKind::kValue, 0, 2), 0.0F);
}

TEST(RowComparator, RowWithNanHasNoErrorAndIsNamed) {
  const MemoryRow reference(mixed_geometry(), 3);
  MemoryRow live(mixed_geometry(), 3);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  set_element(DType::kBFloat16, live.prefill[0].value, 6, nan);  // position 1
  set_element(DType::kFloat32, live.deltas[2], live.header().geometry.row_offset(1).key, nan);
  RowComparator comparator(reference);
  live.feed(comparator);

  const RowComparison& result = comparator.result();
  EXPECT_TRUE(result.nonfinite());
  EXPECT_TRUE(std::isnan(result.prefill_kv.row_error(KvKind::kValue, 0, 1)));
  EXPECT_EQ(result.prefill_kv.row_error(KvKind::kValue, 0, 0), 0.0F);
  ASSERT_TRUE(result.prefill_departure().has_value());
  EXPECT_EQ(result.prefill_departure()->figure, "nonfinite");
  EXPECT_EQ(result.prefill_departure()->position, 1U);
  ASSERT_TRUE(result.step_departure().has_value());
  EXPECT_EQ(result.step_departure()->layer, 1U);
  EXPECT_EQ(result.step_departure()->position, 2U);
}

TEST(RowComparator, NanOnBothSidesIsNonFiniteThoughBitwiseEqual) {
  MemoryRow row(dense_geometry(), 1);
  set_element(DType::kBFloat16, row.prefill[0].key, 16, std::numeric_limits<float>::quiet_NaN());
  RowComparator comparator(row);
  row.feed(comparator);
  EXPECT_TRUE(comparator.result().bitwise_equal());
  EXPECT_TRUE(comparator.result().nonfinite());
  EXPECT_TRUE(std::isnan(comparator.result().prefill_kv.row_error(KvKind::kKey, 0, 1)));
}

TEST(RowComparator, NonFiniteStatisticsMakeTheRowNonFinite) {
  const MemoryRow reference(dense_geometry(), 1);
  MemoryRow live(dense_geometry(), 1);
  live.stats[1].logsumexp = std::numeric_limits<double>::infinity();
  RowComparator comparator(reference);
  live.feed(comparator);
  EXPECT_TRUE(comparator.result().nonfinite());
}

// Float32 on the live side against the reference's bf16 and fp8.
TEST(RowComparator, LiveSideMayHaveOtherTypes) {
  const MemoryRow reference(mixed_geometry(), 2);
  const Geometry wide({LayerGeometry{DType::kFloat32, DType::kFloat32, 1, 3, 3},
                       LayerGeometry{DType::kFloat32, DType::kFloat32, 2, 1, 1}});
  MemoryRow live(wide, 2);
  set_element(DType::kFloat32, live.deltas[1], wide.row_offset(1).value + 4, 1.5F);
  RowComparator comparator(reference,
                           {.live_geometry = wide, .live_logits_dtype = DType::kFloat32});
  live.feed(comparator);

  const RowComparison& result = comparator.result();
  EXPECT_TRUE(result.prefill_kv.total().bitwise_equal());
  EXPECT_EQ(result.prefill_kv.total().elements, 10U * kPromptLength);
  EXPECT_EQ(result.step_kv.total().differing, 1U);
  EXPECT_EQ(result.step_kv.cell(KvKind::kValue, 1, 1, 0).sum_squared_error, 0.25);
  EXPECT_EQ(result.tokens[0].ulp, 0.125) << "the coarser head counts";
}

TEST(RowComparator, RejectsAnotherShape) {
  const MemoryRow reference(dense_geometry(), 1);
  for (const Geometry& other :
       {Geometry({LayerGeometry{DType::kBFloat16, DType::kBFloat16, 2, 8, 8}}),
        Geometry({LayerGeometry{DType::kBFloat16, DType::kBFloat16, 1, 8, 4}}), mixed_geometry()}) {
    const Error error =
        error_of([&] { const RowComparator comparator(reference, {.live_geometry = other}); });
    EXPECT_EQ(error.code(), ErrorCode::kIncompatible) << error.what();
  }
}

TEST(RowComparator, RejectsCodedRowsByName) {
  const MemoryRow plain(dense_geometry(), 1);
  LayerGeometry layer = dense_geometry().layer(0);
  layer.value_code = format::RowCode{format::CodeType::kInt8, DType::kFloat32, false, 8};
  const Geometry coded({layer});
  const MemoryRow reference(coded, 1);
  const Error live_error =
      error_of([&] { const RowComparator comparator(plain, {.live_geometry = coded}); });
  EXPECT_EQ(live_error.code(), ErrorCode::kIncompatible);
  EXPECT_STREQ(live_error.what(),
               "the compared row: layer 0 holds V as int8 codes with scales, which a comparison "
               "cannot read");
  const Error reference_error =
      error_of([&] { const RowComparator comparator(reference, {.live_geometry = {}}); });
  EXPECT_EQ(reference_error.code(), ErrorCode::kIncompatible);
}

TEST(RowComparator, RejectsKvOfAnotherShape) {
  const MemoryRow reference(dense_geometry(), 1);
  const MemoryRow live(mixed_geometry(), 1);
  RowComparator comparator(reference);
  const Error error = error_of([&] { live.feed(comparator); });
  EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
  EXPECT_NE(std::string(error.what()).find("layer 0"), std::string::npos) << error.what();
}

// The prefill's noise is eight times that of the steps, which have a median of their own.
TEST(RowComparator, NoiseOfTheFirstTokenIsJudgedApart) {
  MemoryRow reference(dense_geometry(), 5);
  reference.hold_sample();
  MemoryRow live = reference;
  for (std::size_t token = 0; token <= 5; ++token) live.gather_with_noise(token, 0.0625F);
  live.gather_with_noise(0, 0.5F);
  live.gather_with_noise(4, 0.5F);
  RowComparator comparator(reference);
  live.feed(comparator);
  const std::vector<TokenComparison>& tokens = comparator.result().tokens;
  ASSERT_EQ(tokens.size(), 6U);
  EXPECT_DOUBLE_EQ(tokens[0].noise.top, 0.5);
  EXPECT_DOUBLE_EQ(tokens[1].noise.top, 0.0625);
  const double per_noise = 4.0 * std::sqrt(2.0);
  EXPECT_DOUBLE_EQ(tokens[0].noise_bound, per_noise * 0.5);
  EXPECT_DOUBLE_EQ(tokens[1].noise_bound, per_noise * 0.0625);
  EXPECT_DOUBLE_EQ(tokens[4].noise_bound, per_noise * 0.125) << "twice the steps' median";
  EXPECT_FALSE(std::isnan(tokens[4].hard_flip_probability));
}

// Step 1 chooses the runner-up, half a logit behind, which is 4 ulp and 1.41 noises.
TEST(RowComparator, FlipThatNoiseExplainsIsNoHardOne) {
  MemoryRow reference(dense_geometry(), 3);
  reference.hold_sample();
  MemoryRow live = reference;
  for (std::size_t token = 0; token <= 3; ++token) live.gather_with_noise(token, 0.25F);
  live.stats[2].token += 1;
  const auto judged = [&](const ComparisonOptions& options) {
    RowComparator comparator(reference, options);
    live.feed(comparator);
    return comparator.result().tokens.at(2);
  };
  const TokenComparison token = judged({});
  EXPECT_EQ(token.verdict, TokenVerdict::kNoise);
  EXPECT_DOUBLE_EQ(token.gap_in_noise(4.0), 0.5 / (std::sqrt(2.0) * 0.25));
  EXPECT_EQ(judged({.bounds = {.noise_z = 1.0}}).verdict, TokenVerdict::kHardFlip);
  // Of other ids, so that nothing is known of the noise.
  const HeldLogits other_ids{.top_k = 8, .sample = 16};
  const TokenComparison unknown = judged({.live_logits = other_ids});
  EXPECT_TRUE(std::isnan(unknown.noise_bound));
  EXPECT_EQ(unknown.verdict, TokenVerdict::kHardFlip);
  EXPECT_EQ(judged({.bounds = {.near_tie_ulps = 4.0}, .live_logits = other_ids}).verdict,
            TokenVerdict::kNearTie);
  EXPECT_EQ(judged({.live_logits = HeldLogits{.top_k = 8, .sample = 8}}).verdict,
            TokenVerdict::kNoise);
}

// Whatever is measured of noise is left out together: half of it would be judged by the rules of
// recordings without a sample.
TEST(RowComparator, OfALiveSideWithFewBestLogitsNoNoiseIsMeasured) {
  MemoryRow reference(dense_geometry(), 3);
  reference.hold_sample();
  MemoryRow live = reference;
  live.stats[2].token += 1;
  const auto judged = [&](std::uint32_t top_k) {
    RowComparator comparator(reference, {.live_logits = HeldLogits{.top_k = top_k, .sample = 8}});
    live.feed(comparator);
    return comparator.result().tokens.at(2);
  };
  EXPECT_EQ(judged(8).noise.sample, 0.0);
  EXPECT_FALSE(std::isnan(judged(8).flip_probability));
  EXPECT_FALSE(std::isnan(judged(8).kl_estimate.value));
  EXPECT_TRUE(std::isnan(judged(7).noise.sample));
  EXPECT_TRUE(std::isnan(judged(7).flip_probability));
  EXPECT_TRUE(std::isnan(judged(7).kl_estimate.value));
}

}  // namespace
}  // namespace kvtool::analysis
