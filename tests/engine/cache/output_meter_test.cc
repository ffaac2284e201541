// What a policy does to the output of attention, against attention by its definition.
#include "engine/cache/output_meter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/cache/policies.h"
#include "engine/cache/slot_rows.h"
#include "engine/toy_run.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

using format::ReplayMode;

// In float64, of the last of `positions`: q [B, Hq, 1, D], k and v [B, H, positions, D]. Keys
// before `first` are not seen.
at::Tensor by_definition(const at::Tensor& q, const LayerKv& kv, double scale, std::int64_t row,
                         std::int64_t first) {
  const std::int64_t repeats = q.size(1) / kv.k.size(1);
  const std::int64_t count = kv.k.size(2) - first;
  const auto of_row = [&](const at::Tensor& rows) {
    return rows.select(0, row)
        .narrow(1, first, count)
        .to(at::kDouble)
        .repeat_interleave(repeats, 0);
  };
  const at::Tensor scores =
      at::matmul(q.select(0, row).to(at::kDouble), of_row(kv.k).transpose(1, 2)).mul(scale);
  return at::matmul(at::softmax(scores, -1), of_row(kv.v));
}

double sum_of_squares(const at::Tensor& values) { return values.square().sum().item<double>(); }

TEST(OutputMeter, MeasuresWhatAWindowHides) {
  at::manual_seed(3);
  const RowLayout layout(format::Geometry({{DType::kFloat32, DType::kFloat32, 2, 8, 6}}));
  const std::vector<std::int32_t> long_prompt(6, 1);
  const std::vector<std::int32_t> short_prompt(4, 1);
  const BatchShape shape({long_prompt, short_prompt}, 6, 9);
  const std::unique_ptr<KvCache> cache =
      cache_maker(cache::CacheSpec::parse("window:sinks=0,recent=3"))(layout, shape, at::kCPU);
  OutputMeter meter(*cache, layout, shape, at::kCPU);
  LayerKv made{at::empty({2, 2, 0, 8}), at::empty({2, 2, 0, 6})};
  double difference = 0.0;
  double exact = 0.0;
  const std::optional<at::Tensor> sinks;
  const auto pass = [&](std::int64_t count, bool first_row_counts) {
    const LayerKv rows{at::randn({2, 2, count, 8}), at::randn({2, 2, count, 6})};
    const at::Tensor q = at::randn({2, 4, count, 8});
    meter.count_rows({first_row_counts, true});
    meter.begin({made.k.size(2), count});
    const at::Tensor output = meter.attend({q, rows.k, rows.v, 0, 0.3, 0, 0.0, sinks});
    meter.end();
    made = {at::cat({made.k, rows.k}, 2), at::cat({made.v, rows.v}, 2)};
    if (count > 1) return;
    for (const std::int64_t row : {0, 1}) {
      const at::Tensor whole = by_definition(q, made, 0.3, row, shape.padding(row));
      const at::Tensor window = by_definition(q, made, 0.3, row, made.k.size(2) - 3);
      EXPECT_TRUE(
          at::allclose(output.select(0, row).transpose(0, 1).to(at::kDouble), window, 1e-5, 1e-6));
      if (row == 0 && !first_row_counts) continue;
      difference += sum_of_squares(window - whole);
      exact += sum_of_squares(whole);
    }
  };
  pass(6, true);
  pass(1, true);
  pass(1, true);
  pass(1, false);
  const std::vector<AttentionError> errors = meter.errors();
  ASSERT_EQ(errors.size(), 1U);
  EXPECT_GT(difference, 0.01 * exact);
  EXPECT_NEAR(errors[0].difference_squares, difference, 1e-4 * difference);
  EXPECT_NEAR(errors[0].exact_squares, exact, 1e-4 * exact);
}

TEST(OutputMeter, ChangesNothingOfAReplay) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 8);
  for (const char* spec : {"contiguous", "int8"}) {
    ReplayOptions options =
        replay_options(ReplayMode::kForced, cache::CacheSpec::parse(spec), false);
    const Replayed plain = run(model, recorded, options);
    EXPECT_TRUE(plain.result.attention_errors.empty());
    options.measure_attention = true;
    const Replayed measured = run(model, recorded, options);
    ASSERT_EQ(measured.result.attention_errors.size(), 2U);
    const bool rounds = std::string(spec) == "int8";
    for (const AttentionError& error : measured.result.attention_errors) {
      EXPECT_GT(error.exact_squares, 0.0);
      EXPECT_EQ(error.difference_squares > 0.0, rounds);
      EXPECT_LT(error.difference_squares, 1e-2 * error.exact_squares);
    }
    for (std::size_t row = 0; row < 2; ++row) {
      EXPECT_EQ(measured.rows[row]->deltas, plain.rows[row]->deltas);
    }
    EXPECT_EQ(measured.result.cache_use, plain.result.cache_use);
  }
}

TEST(OutputMeter, IsOfTheOwnRowsAlone) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 4);
  ReplayOptions options = replay_options(ReplayMode::kInject, {}, false);
  options.measure_attention = true;
  EXPECT_EQ(error_of([&] { std::ignore = run(model, recorded, options); }).code(),
            ErrorCode::kMisuse);
  options.mode = ReplayMode::kForced;
  options.parallel = true;
  EXPECT_EQ(error_of([&] { std::ignore = run(model, recorded, options); }).code(),
            ErrorCode::kMisuse);
  options.parallel = false;
  options.fault = Fault{};
  EXPECT_EQ(error_of([&] { std::ignore = run(model, recorded, options); }).code(),
            ErrorCode::kMisuse);
}

}  // namespace
}  // namespace kvtool::engine
