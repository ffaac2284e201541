#include <gmock/gmock.h>

#include "kvtool/base/error.h"
#include "run/reference/plan_batches.h"

namespace kvtool::run {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ReferenceEntry entry(const std::string& batch_id, std::uint64_t row, std::uint64_t rows,
                     std::uint64_t first_input = 0) {
  ReferenceEntry result;
  result.path = "dir/" + batch_id + std::to_string(row) + ".kvc";
  result.batch_size = rows;
  result.input_index = first_input + row;
  result.prompt_length = 3;
  result.num_steps = 4;
  result.run = format::RunMeta{.batch_id = batch_id,
                               .batch_size = rows,
                               .row = row,
                               .rows = rows,
                               .input_index = first_input + row,
                               .padded_length = 5,
                               .cache_capacity = 12};
  return result;
}

std::string planning_error(const std::vector<ReferenceEntry>& entries) {
  try {
    static_cast<void>(plan_batches(entries, ReplayShape::kRecorded));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
    return error.what();
  }
  return "no error";
}

TEST(PlanBatches, OrdersRowsAndBatches) {
  const std::vector<ReferenceEntry> entries = {entry("b", 1, 2, 2), entry("b", 0, 2, 2),
                                               entry("c", 1, 2), entry("c", 0, 2)};
  const auto batches = plan_batches(entries, ReplayShape::kRecorded);
  ASSERT_EQ(batches.size(), 2U);
  EXPECT_EQ(batches[0].rows[0].entry, 3U);
  EXPECT_EQ(batches[0].rows[1].entry, 2U);
  EXPECT_EQ(batches[1].rows[0].entry, 1U);
  EXPECT_EQ(batches[0].padded_length, 5U);
  EXPECT_EQ(batches[0].cache_capacity, 12U);
}

TEST(PlanBatches, StandInsNameTheMissingFiles) {
  const std::vector<ReferenceEntry> entries = {entry("a", 2, 4, 4)};
  const auto batches = plan_batches(entries, ReplayShape::kRecorded);
  ASSERT_EQ(batches[0].rows.size(), 4U);
  EXPECT_TRUE(batches[0].rows[0].stand_in);
  EXPECT_FALSE(batches[0].rows[2].stand_in);
  EXPECT_THAT(batches[0].missing,
              ElementsAre("batch4_input4.kvc", "batch4_input5.kvc", "batch4_input7.kvc"));
}

TEST(PlanBatches, ParallelRowsShareCallsWhateverTheirBatchWas) {
  std::vector<ReferenceEntry> entries;
  for (std::uint64_t input = 0; input < 70; ++input) {
    entries.push_back(entry("a" + std::to_string(input), input, 2));
  }
  entries[1].selected = false;
  const auto batches = plan_batches(entries, ReplayShape::kParallel);
  ASSERT_EQ(batches.size(), 2U);
  EXPECT_EQ(batches[0].rows.size(), 64U);
  EXPECT_EQ(batches[1].rows.size(), 5U);
  EXPECT_EQ(batches[0].cache_capacity, 7U);
}

// Rows of one call share its cache.
TEST(PlanBatches, ParallelRowsOfDifferentCachesShareNoCall) {
  std::vector<ReferenceEntry> entries;
  for (std::uint64_t input = 0; input < 5; ++input) {
    entries.push_back(entry("a" + std::to_string(input), input, 2));
    entries.back().kv_cache = input % 2 == 0 ? "contiguous" : "int8";
  }
  const auto batches = plan_batches(entries, ReplayShape::kParallel);
  ASSERT_EQ(batches.size(), 2U);
  EXPECT_EQ(batches[0].rows.size(), 3U);
  EXPECT_EQ(batches[1].rows.size(), 2U);
  EXPECT_EQ(entries[batches[1].rows[1].entry].input_index, 3U);
}

// The engine computes as many statistics for all rows of a call.
TEST(PlanBatches, ParallelRowsWithOtherStatisticsShareNoCall) {
  std::vector<ReferenceEntry> entries;
  for (std::uint64_t input = 0; input < 6; ++input) {
    entries.push_back(entry("a" + std::to_string(input), input, 2));
    entries.back().top_k = input == 5 ? 8 : 32;
    entries.back().logits_sample = input % 2 == 0 ? 64 : 0;
  }
  const auto batches = plan_batches(entries, ReplayShape::kParallel);
  ASSERT_EQ(batches.size(), 3U);
  EXPECT_EQ(batches[0].rows.size(), 3U);
  EXPECT_EQ(batches[1].rows.size(), 2U);
  EXPECT_EQ(batches[2].rows[0].entry, 5U);
}

TEST(PlanBatches, RowsOfOneBatchHaveOneCache) {
  std::vector<ReferenceEntry> entries = {entry("a", 0, 2), entry("a", 1, 2)};
  entries[1].kv_cache = "int8";
  EXPECT_THAT(planning_error(entries),
              HasSubstr("disagree about its cache: int8 against contiguous"));
}

TEST(PlanBatches, SingleRowsHaveTheirOwnShape) {
  std::vector<ReferenceEntry> entries = {entry("a", 0, 2), entry("a", 1, 2)};
  entries[1].selected = false;
  const auto batches = plan_batches(entries, ReplayShape::kSingle);
  ASSERT_EQ(batches.size(), 1U);
  EXPECT_EQ(batches[0].padded_length, 3U);
  EXPECT_EQ(batches[0].cache_capacity, 7U);
}

TEST(PlanBatches, ABatchWithoutASelectedRowDoesNotRun) {
  std::vector<ReferenceEntry> entries = {entry("a", 0, 1), entry("b", 0, 1, 1)};
  entries[0].selected = false;
  EXPECT_EQ(plan_batches(entries, ReplayShape::kRecorded).size(), 1U);
}

TEST(PlanBatches, ARecordingWithoutABatchRunsAlone) {
  std::vector<ReferenceEntry> entries = {entry("a", 0, 2)};
  entries[0].run.reset();
  EXPECT_EQ(plan_batches(entries, ReplayShape::kRecorded)[0].rows.size(), 1U);
}

TEST(PlanBatches, RefusesTwoRecordingsOfOneRow) {
  ReferenceEntry twin = entry("a", 0, 2);
  twin.path = "dir/twin.kvc";
  EXPECT_THAT(planning_error({entry("a", 0, 2), twin}), HasSubstr("both say that they are row 0"));
}

TEST(PlanBatches, RefusesRowsThatDisagree) {
  ReferenceEntry other = entry("a", 1, 2);
  other.run->padded_length = 6;
  EXPECT_THAT(planning_error({entry("a", 0, 2), other}), HasSubstr("padded length: 6 against 5"));
  other = entry("a", 1, 2);
  other.num_steps = 8;
  EXPECT_THAT(planning_error({entry("a", 0, 2), other}), HasSubstr("8 steps do not fit"));
}

}  // namespace
}  // namespace kvtool::run
