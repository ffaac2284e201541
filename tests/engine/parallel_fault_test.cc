// A fault in a parallel replay against the same fault step by step, on a toy model: the rows that
// come out and the figures that a gate judges.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <tuple>
#include <utility>

#include "close_rows.h"
#include "kvtool/analysis/row_comparison.h"
#include "kvtool/analysis/summary.h"
#include "kvtool/cache/cache_spec.h"
#include "kvtool/format/row.h"
#include "support/error_of.h"
#include "toy_run.h"

namespace kvtool::engine {
namespace {

using format::ReplayMode;

struct NamedFault {
  const char* name;
  Fault fault;
};

// One step of those that both rows have (0 to 4) or that the second has alone (5 to 7); step 2
// begins a piece where passes hold 15 tokens.
constexpr std::array kToyFaults{
    NamedFault{"ScaledValues", {FaultKind::kScaledValues, 0, 0, 0.01}},
    NamedFault{"RotatedKeys", {FaultKind::kRotatedKeys, 1, 0, 1.0}},
    NamedFault{"RotatedKeysOfTheFirstLayer", {FaultKind::kRotatedKeys, 0, 0, 0.5}},
    NamedFault{"SwappedHeads", {FaultKind::kSwappedHeads, 1, 0, 1.0}},
    NamedFault{"StaleRowAfterThePrompt", {FaultKind::kStaleRow, 0, 0, 1.0}},
    NamedFault{"StaleRowOfANewPiece", {FaultKind::kStaleRow, 0, 2, 0.5}},
    NamedFault{"StaleRow", {FaultKind::kStaleRow, 1, 3, 1.0}},
    NamedFault{"StaleRowOfTheLongerRow", {FaultKind::kStaleRow, 1, 6, 1.0}},
    NamedFault{"UnscaledInt8Keys", {FaultKind::kUnscaledInt8Keys, 1, 0, 1.0}},
    NamedFault{"Nonfinite", {FaultKind::kNonfinite, 1, 2, 1.0}},
};

void PrintTo(const NamedFault& fault, std::ostream* out) { *out << fault.name; }

// Each way to keep rows; kivi so small that the row before may be in a group already, paged with less
// room than a row needs.
constexpr std::array kSpecs{"contiguous", "int8", "fp8", "kivi:k=8,v=8,group=2,residual=1",
                            "paged:page=2,device=6"};

using Case = std::tuple<NamedFault, ReplayMode, const char*>;

// Two prompts of 3 and 5 tokens, 5 and 8 steps.
Rows record_unlike_rows(TorchModel& model, const cache::CacheSpec& kv_cache) {
  Rows rows = record(model, 9, kv_cache);
  rows[0]->steps.resize(5);
  rows[0]->deltas.resize(5);
  return rows;
}

// Of figures that one rounding more or less changes.
bool counts_roundings(const std::string& figure) {
  return std::ranges::any_of(
      std::array{"bitwise_rate", "differing_rate", "floor_ratio", "ulp_"},
      [&](const char* part) { return figure.find(part) != std::string::npos; });
}

class ParallelFault : public testing::TestWithParam<Case> {
 protected:
  static ReplayOptions options() {
    ReplayOptions options;
    options.fault = std::get<NamedFault>(GetParam()).fault;
    options.mode = std::get<ReplayMode>(GetParam());
    options.kv_cache = cache::CacheSpec::parse(std::get<const char*>(GetParam()));
    return options;
  }
  static ReplayOptions in_parallel() {
    ReplayOptions changed = options();
    changed.parallel = true;
    return changed;
  }
  // Passes of so many tokens.
  static ReplayOptions in_passes_of(std::uint64_t tokens) {
    constexpr std::uint64_t kBytesOfToken = 192 * 1024 + 320;  // of pass_limits()
    ReplayOptions changed = in_parallel();
    changed.parallel_memory_bytes = 2 * kBytesOfToken * tokens;
    return changed;
  }

  Rows replayed(const ReplayOptions& how) {
    Replayed made = run(model_, recorded_, how);
    if (how.kv_cache.policy() != "kivi") return std::move(made.rows);
    // A row that has ended goes on to be quantized as long as its batch runs.
    for (const auto& row : made.rows) {
      row->final_keys.clear();
      row->final_values.clear();
    }
    return std::move(made.rows);
  }

  void expect_steps_with_fault(const ReplayOptions& how) {
    const Rows steps = replayed(options());
    const Rows rows = replayed(how);
    for (std::size_t row = 0; row < rows.size(); ++row) {
      SCOPED_TRACE(row);
      expect_close(*rows[row], *steps[row]);
    }
  }

  // Of all rows together, as a gate sees them.
  analysis::Figures figures_of(const Rows& rows) {
    analysis::RunSummaryBuilder builder;
    for (std::size_t row = 0; row < rows.size(); ++row) {
      analysis::RowComparator comparator(*recorded_[row]);
      rows[row]->recording_header = recorded_[row]->recording_header;
      format::feed_row(*rows[row], comparator, {});
      builder.add({2, row}, recorded_[row]->prompt().size(), options().mode, comparator.result(),
                  /*with_prefill=*/true);
    }
    return analysis::figures_of(builder.build());
  }

  TorchModel model_ = toy_model();
  Rows recorded_ = record_unlike_rows(model_, options().kv_cache);
};

TEST_P(ParallelFault, MakesTheRowsOfTheReplayStepByStep) { expect_steps_with_fault(in_parallel()); }

// 15: the first row whole and the second up to its second step, then the rest of that.
TEST_P(ParallelFault, MakesThemInRowsThatAreCutInPieces) {
  ReplayOptions healthy = in_passes_of(15);
  healthy.fault.reset();
  module_of(model_).fed.clear();
  static_cast<void>(replayed(healthy));
  ASSERT_EQ(module_of(model_).fed.size(), 2U);
  EXPECT_EQ(module_of(model_).fed[0].numel(), 15);
  EXPECT_EQ(module_of(model_).fed[1].numel(), 6);
  expect_steps_with_fault(in_passes_of(15));
  expect_steps_with_fault(in_passes_of(1));
}

TEST_P(ParallelFault, MakesThemWhereTheRecordingHoldsNoSteps) {
  for (const auto& row : recorded_) row->with_step_kv = false;
  expect_steps_with_fault(in_parallel());
  expect_steps_with_fault(in_passes_of(15));
}

// Else the tests above would pass without a fault.
TEST_P(ParallelFault, Shows) {
  ReplayOptions healthy = in_parallel();
  healthy.fault.reset();
  const Rows right = replayed(healthy);
  const Rows wrong = replayed(in_parallel());
  double largest = 0.0;
  for (std::size_t row = 0; row < right.size(); ++row) {
    for (std::size_t step = 0; step < right[row]->deltas.size(); ++step) {
      largest =
          std::max(largest, largest_difference(wrong[row]->deltas[step], right[row]->deltas[step]));
    }
  }
  EXPECT_GT(largest, 1e-3);
}

TEST_P(ParallelFault, GivesTheFiguresOfTheReplayStepByStep) {
  const analysis::Figures steps = figures_of(replayed(options()));
  const analysis::Figures parallel = figures_of(replayed(in_parallel()));
  ASSERT_EQ(parallel.size(), steps.size());
  EXPECT_GT(steps.size(), 20U);
  for (const auto& [name, expected] : steps) {
    if (counts_roundings(name)) continue;
    const double tolerance = 1e-6 + 1e-3 * std::abs(expected);
    EXPECT_NEAR(parallel.at(name), expected, tolerance) << name;
  }
}

std::string policy_of(const std::string& spec) { return spec.substr(0, spec.find(':')); }

std::string name_of_case(const testing::TestParamInfo<Case>& info) {
  return std::string(std::get<NamedFault>(info.param).name) + "_" +
         std::string(format::replay_mode_name(std::get<ReplayMode>(info.param))) + "_" +
         policy_of(std::get<const char*>(info.param));
}

INSTANTIATE_TEST_SUITE_P(FaultsModesAndCaches, ParallelFault,
                         testing::Combine(testing::ValuesIn(kToyFaults),
                                          testing::Values(ReplayMode::kInject, ReplayMode::kForced),
                                          testing::ValuesIn(kSpecs)),
                         name_of_case);

TEST(ParallelFaultOnce, OfALayerThatThereIsNotIsRefused) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 4);
  ReplayOptions options;
  options.parallel = true;
  options.fault = Fault{FaultKind::kScaledValues, 2, 0, 1.0};
  const Error error = error_of([&] { run(model, recorded, options); });
  EXPECT_EQ(error.code(), ErrorCode::kMisuse);
}

}  // namespace
}  // namespace kvtool::engine
