#include "format/records/record_grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kvtool/format/reader.h"
#include "raw_recording.h"
#include "sample.h"
#include "support/error_of.h"
#include "verified.h"

namespace kvtool::format {
namespace {

using Fit = RecordGrammar::Fit;

constexpr auto kUnknown = static_cast<RecordType>(77);

RecordHeader record(RecordType type, std::uint64_t index, std::uint64_t sequence) {
  RecordHeader header;
  header.type = type;
  header.index = index;
  header.sequence = static_cast<std::uint32_t>(sequence);
  return header;
}

// A whole recording of two layers and three steps.
std::vector<RecordHeader> whole(SaveMode mode) {
  std::vector<RecordHeader> records;
  const auto add = [&](RecordType type, std::uint64_t count = 1) {
    for (std::uint64_t i = 0; i < count; ++i) records.push_back(record(type, i, records.size()));
  };
  const bool final_only = mode == SaveMode::kFinalOnly;
  add(RecordType::kMeta);
  add(RecordType::kPrompt);
  add(RecordType::kPrefill, final_only ? 0 : 2);
  add(RecordType::kPrefillEnd);
  add(RecordType::kStep, 3);
  add(RecordType::kFinal, final_only ? 2 : 0);
  add(RecordType::kSummary);
  add(RecordType::kTrailer);
  return records;
}

class EveryModesGrammar : public testing::TestWithParam<SaveMode> {
 protected:
  // Behind the first `count` records of a whole recording.
  [[nodiscard]] RecordGrammar behind(std::size_t count) const {
    RecordGrammar grammar(sample_header(GetParam()));
    for (std::size_t i = 0; i < count; ++i) grammar.take(records[i]);
    return grammar;
  }

  // Steps may end anywhere.
  [[nodiscard]] bool ends_steps(std::size_t at, const RecordHeader& record) const {
    const RecordType end =
        GetParam() == SaveMode::kFinalOnly ? RecordType::kFinal : RecordType::kSummary;
    return records[at].type == RecordType::kStep && record.type == end && record.index == 0;
  }

  std::vector<RecordHeader> records = whole(GetParam());
};

TEST_P(EveryModesGrammar, OnlyTheNextRecordFits) {
  for (std::size_t at = 0; at < records.size(); ++at) {
    const RecordGrammar grammar = behind(at);
    for (RecordHeader other : records) {
      other.sequence = static_cast<std::uint32_t>(at);
      const bool next = other.type == records[at].type && other.index == records[at].index;
      EXPECT_EQ(grammar.fit(other) == Fit::kFits, next || ends_steps(at, other))
          << describe_record(other) << " in place of " << describe_record(records[at]);
    }
  }
}

TEST_P(EveryModesGrammar, BehindAGapAnyLaterRecordFits) {
  for (std::size_t at = 1; at < records.size(); ++at) {
    RecordGrammar grammar = behind(at);
    grammar.lose_up_to(20);
    for (std::size_t other = 0; other < records.size(); ++other) {
      RecordHeader found = records[other];
      found.sequence = 20;
      EXPECT_EQ(grammar.fit(found) == Fit::kFits, other >= at)
          << describe_record(found) << " behind a gap behind " << describe_record(records[at - 1]);
      found.sequence = 19;
      EXPECT_EQ(grammar.fit(found), Fit::kWrongSequence);
    }
  }
}

TEST_P(EveryModesGrammar, UnknownRecordsStandBetweenRunsOnly) {
  for (std::size_t at = 0; at + 1 < records.size(); ++at) {
    RecordGrammar grammar = behind(at);
    const RecordHeader unknown = record(kUnknown, 5, at);
    EXPECT_EQ(grammar.fit(unknown) == Fit::kFits, at >= 2);
    grammar.take(unknown);
    RecordHeader next = records[at];
    ++next.sequence;
    const bool inside_run = next.index > 0;
    EXPECT_EQ(grammar.fit(next) == Fit::kFits, !inside_run) << describe_record(next);
    EXPECT_EQ(grammar.expected().type, kNobodyKnows);
  }
}

TEST_P(EveryModesGrammar, ExpectsWhatCannotBeAnythingElseAndSteps) {
  for (std::size_t at = 0; at < records.size(); ++at) {
    const auto [type, index] = behind(at).expected();
    const RecordHeader& previous = records[at == 0 ? 0 : at - 1];
    if (previous.type == RecordType::kStep || previous.type == RecordType::kPrefillEnd) {
      EXPECT_EQ(type, RecordType::kStep);
      EXPECT_EQ(index, previous.type == RecordType::kStep ? previous.index + 1 : 0);
    } else if (previous.type == RecordType::kFinal && previous.index == 1) {
      EXPECT_EQ(type, kNobodyKnows) << "CHECKSUMS or SUMMARY";
    } else {
      EXPECT_EQ(type, records[at].type);
      EXPECT_EQ(index, records[at].index);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(RecordGrammar, EveryModesGrammar,
                         testing::Values(SaveMode::kDelta, SaveMode::kPrefillOnly,
                                         SaveMode::kFinalOnly),
                         [](const auto& mode) { return std::string(save_mode_name(mode.param)); });

TEST(RecordGrammar, StepsInBulkAreTheLastOfThem) {
  RecordGrammar grammar(sample_header(SaveMode::kDelta));
  for (const RecordHeader& each : whole(SaveMode::kDelta)) {
    if (each.type == RecordType::kStep) break;
    grammar.take(each);
  }
  const std::uint64_t before = grammar.sequence();
  grammar.take(record(RecordType::kStep, 0, before), 64);
  EXPECT_EQ(grammar.sequence(), before + 64);
  EXPECT_EQ(grammar.fit(record(RecordType::kStep, 64, before + 64)), Fit::kFits);
  EXPECT_EQ(grammar.fit(record(RecordType::kStep, 1, before + 64)), Fit::kOutOfOrder);
}

// Opening and verifying agree, with a trailer and without.
TEST(RecordGrammar, AnIndexWhereNoneBelongsIsDamageForAll) {
  const auto misplaced = [](RecordHeader& header) { header.index = 3; };
  RawRecording raw(sample_header(SaveMode::kDelta));
  raw.begin().step(0).step(1).text(RecordType::kSummary, sample_summary(2).dump(), misplaced);
  MemoryFileSystem files;
  files.put("x.kvc", raw.bytes);
  const Error error =
      error_of([&] { static_cast<void>(Recording::open("x.kvc", {.file_system = &files})); });
  EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
  EXPECT_THAT(error.what(), testing::HasSubstr("SUMMARY follows"));
  EXPECT_EQ(verify(raw.bytes).state, FileState::kDamaged);
}

}  // namespace
}  // namespace kvtool::format
