// Verification goes on behind damage and says where it is.
#include "kvtool/format/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "format/layout.h"
#include "raw_recording.h"
#include "sample.h"
#include "support/stride.h"
#include "verified.h"

namespace kvtool::format {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// What one byte of a payload belongs to.
struct Place {
  std::vector<DamagedColumn> columns;
  bool statistics = false;
};

Place place_in_step(const RecordingHeader& header, std::uint64_t at) {
  const std::uint64_t stats = stats_block_bytes(header);
  if (at < stats) return {{}, true};
  for (std::uint32_t i = 0; i < header.geometry.num_layers(); ++i) {
    const LayerGeometry& layer = header.geometry.layer(i);
    const RowOffset& row = header.geometry.row_offset(i);
    const std::uint64_t into = at - stats;
    if (into >= row.key && into < row.key + layer.key_bytes()) return {{{i, false}}, false};
    if (into >= row.value && into < row.value + layer.value_bytes()) return {{{i, true}}, false};
  }
  return {};
}

Place place_in_state(const RecordingHeader& header, const RecordHeader& record, std::uint64_t at,
                     std::uint64_t positions) {
  const auto layer = static_cast<std::uint32_t>(record.index);
  const StateLayout layout = state_layout(header.geometry.layer(layer), positions).value();
  if (at < layout.key_bytes) return {{{layer, false}}, false};
  if (at >= layout.value_offset && at < layout.payload_bytes) return {{{layer, true}}, false};
  return {};
}

class Verify : public testing::TestWithParam<SampleKind> {
 protected:
  Verify() : whole_(sample_bytes(GetParam().header(), kSteps, &offsets_)) {}

  SampleOffsets offsets_;
  Bytes whole_;
};

class ExhaustiveVerify : public Verify {};

INSTANTIATE_TEST_SUITE_P(KvcVerify, Verify, testing::ValuesIn(kSampleKinds),
                         [](const auto& kind) { return kind.param.name(); });
INSTANTIATE_TEST_SUITE_P(KvcVerify, ExhaustiveVerify, testing::ValuesIn(kSampleKinds),
                         [](const auto& kind) { return kind.param.name(); });

TEST_P(Verify, CompleteRecordingIsIntact) {
  const FileVerdict verdict = verify(whole_);
  EXPECT_EQ(verdict.state, FileState::kIntact) << verdict.error;
  EXPECT_TRUE(verdict.complete);
  EXPECT_EQ(verdict.num_steps, kSteps);
  EXPECT_EQ(verdict.intact_steps, kSteps);
  EXPECT_EQ(verdict.num_records, record_headers(whole_).size());
  EXPECT_EQ(verdict.bytes, whole_.size());
  EXPECT_EQ(verdict.save_mode, GetParam().mode);
  EXPECT_THAT(verdict.damages, IsEmpty());
}

TEST_P(ExhaustiveVerify, EveryFlippedByteOfARecordIsReportedAtItsPlace) {
  const RecordingHeader header = GetParam().header();
  for (const RecordHeader& record : record_headers(whole_)) {
    const std::uint64_t bytes = record_bytes(record.stored_bytes);
    for (std::uint64_t into = first_of(GetParam().mode); into < bytes; into += kStride) {
      SCOPED_TRACE(describe_record(record) + " byte " + std::to_string(into));
      Bytes damaged = whole_;
      damaged[record.offset + into] ^= std::byte{0x10};
      const FileVerdict verdict = verify(damaged);
      ASSERT_EQ(verdict.state, FileState::kDamaged);
      ASSERT_THAT(verdict.damages, SizeIs(1));
      const Damage& damage = verdict.damages.front();
      ASSERT_EQ(damage.offset_bytes, record.offset);
      ASSERT_EQ(damage.length_bytes, bytes);
      // Which optional record it was, its lost header does not say.
      const bool nameless = record.type == RecordType::kChecksums ||
                            record.type == RecordType::kSummary ||
                            (record.type == RecordType::kFinal && record.index == 0);
      if (into >= kRecordHeaderBytes || !nameless) {
        ASSERT_EQ(damage.record, describe_record(record));
      }
      Place expected;
      const std::uint64_t at = into - kRecordHeaderBytes;
      const bool payload = into >= kRecordHeaderBytes && at < record.stored_bytes;
      if (payload && record.type == RecordType::kStep) expected = place_in_step(header, at);
      if (payload && record.type == RecordType::kPrefill) {
        expected = place_in_state(header, record, at, 3);
      }
      if (payload && record.type == RecordType::kFinal) {
        expected = place_in_state(header, record, at, 3 + kSteps);
      }
      if (record.type == RecordType::kPrefillEnd) expected.statistics = true;
      ASSERT_EQ(damage.columns, expected.columns);
      ASSERT_EQ(damage.statistics, expected.statistics);
      ASSERT_FALSE(damage.shared);
    }
  }
}

TEST_P(ExhaustiveVerify, EveryFlippedByteOfTheFileHeaderMakesItUnreadable) {
  for (std::uint64_t i = 0; i < load<std::uint32_t>(whole_, 12); ++i) {
    Bytes damaged = whole_;
    damaged[i] ^= std::byte{0x10};
    const FileVerdict verdict = verify(damaged);
    ASSERT_EQ(verdict.state, FileState::kUnreadable) << i;
    ASSERT_NE(verdict.error, "");
  }
}

TEST_P(ExhaustiveVerify, CutAnywhereSaysTruncatedAsTheReaderDoes) {
  for (std::uint64_t cut = first_of(GetParam().mode); cut < whole_.size(); cut += kStride) {
    SCOPED_TRACE(cut);
    const FileVerdict verdict = verify(first_bytes(whole_, cut));
    if (cut < offsets_.prompt_end) {
      ASSERT_EQ(verdict.state, FileState::kUnreadable);
      continue;
    }
    const Recording recording = open_bytes(first_bytes(whole_, cut));
    ASSERT_EQ(verdict.state, FileState::kTruncated) << verdict.error;
    ASSERT_EQ(verdict.truncation, recording.truncation());
    ASSERT_EQ(verdict.num_steps, recording.num_steps());
    ASSERT_EQ(verdict.intact_steps, recording.num_steps());
    ASSERT_THAT(verdict.damages, IsEmpty());
  }
}

TEST_P(Verify, ATornLastStepIsATruncation) {
  Bytes torn = first_bytes(whole_, offsets_.step_ends[1]);
  std::fill(torn.begin() + static_cast<std::ptrdiff_t>(offsets_.step_ends[0]) + 100, torn.end(),
            std::byte{0});
  for (const std::size_t zeros : {0u, 10u, 5000u}) {
    torn.resize(offsets_.step_ends[1] + zeros);
    const FileVerdict verdict = verify(torn);
    EXPECT_EQ(verdict.state, FileState::kTruncated);
    EXPECT_EQ(verdict.truncation, open_bytes(torn).truncation());
    EXPECT_EQ(verdict.num_steps, 1u);
  }
  torn.push_back(std::byte{1});
  EXPECT_EQ(verify(torn).state, FileState::kDamaged);
}

TEST_P(Verify, BytesBehindTheTrailerAreDamage) {
  Bytes longer = whole_;
  longer.resize(longer.size() + 65);
  EXPECT_THAT(verify(longer).damages.front().problem,
              HasSubstr("65 bytes behind the end of the recording"));
}

TEST_P(Verify, AgreesWithTheReaderOnRandomDamage) {
  std::mt19937 random(7);
  const auto below = [&](std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random);
  };
  for (int trial = 0; trial < 300; ++trial) {
    Bytes damaged = whole_;
    const std::size_t start = below(damaged.size());
    const std::size_t length = std::min(damaged.size() - start, 1 + below(300));
    for (std::size_t i = start; i < start + length; ++i) {
      damaged[i] = trial % 2 == 0 ? std::byte{0} : static_cast<std::byte>(random());
    }
    const bool changed = damaged != whole_;
    EXPECT_EQ(verify(damaged).state == FileState::kIntact, !changed) << start << " " << length;
  }
}

TEST(KvcVerifyDamage, EveryDamagedPlaceIsListed) {
  SampleOffsets offsets;
  Bytes damaged = sample_bytes(SaveMode::kDelta, 200, &offsets);
  const std::uint64_t stats = stats_block_bytes(sample_header(SaveMode::kDelta));
  const auto flip_row = [&](std::size_t step, std::uint64_t row) {
    damaged[offsets.step_ends[step] - 64 + row] ^= std::byte{1};
  };
  damaged[offsets.prompt_end + 64] ^= std::byte{1};  // K of layer 0
  flip_row(12, 48);
  flip_row(13, 48);
  flip_row(14, 48);
  flip_row(70, 0);
  damaged[offsets.step_ends[149] - 64 - stats + 3] ^= std::byte{1};  // statistics
  damaged[offsets.step_ends[127] + 5] ^= std::byte{1};               // header of step 128
  const FileVerdict verdict = verify(damaged);
  EXPECT_EQ(verdict.state, FileState::kDamaged);
  EXPECT_THAT(places(verdict),
              ElementsAre("PREFILL of layer 0: layer 0, K, positions 0-2",
                          "STEP 12-14: layer 1, V (all damaged steps of this group together), "
                          "positions 15-17",
                          "STEP 70: layer 0, K, position 73", "STEP 128: no K/V",
                          "STEP 149: statistics, no K/V"));
  EXPECT_EQ(verdict.num_steps, 200u);
  EXPECT_EQ(verdict.intact_steps, 0u);
}

TEST(KvcVerifyDamage, SeveralStepsOfAGroupShareTheUnionOfTheirColumns) {
  SampleOffsets offsets;
  Bytes damaged = sample_bytes(SaveMode::kDelta, 10, &offsets);
  damaged[offsets.step_ends[2] - 64] ^= std::byte{1};       // layer 0, K
  damaged[offsets.step_ends[7] - 64 + 32] ^= std::byte{1};  // layer 1, K
  const FileVerdict verdict = verify(damaged);
  ASSERT_THAT(verdict.damages, SizeIs(2));
  for (const Damage& damage : verdict.damages) {
    EXPECT_TRUE(damage.shared);
    EXPECT_THAT(damage.columns, ElementsAre(DamagedColumn{0, false}, DamagedColumn{1, false}));
  }
  EXPECT_EQ(verdict.intact_steps, 2u);
}

TEST(KvcVerifyDamage, WithoutChecksumsAStepIsAsFarAsItGoes) {
  RawRecording raw(sample_header(SaveMode::kDelta));
  Bytes bytes = raw.begin().end().bytes;
  EXPECT_EQ(verify(bytes).state, FileState::kIntact);
  bytes[raw.found.first_step + 64 + 64 + 3] ^= std::byte{1};
  EXPECT_THAT(places(verify(bytes)), ElementsAre("STEP 0: K or V of any layer, position 3"));
}

TEST(KvcVerifyDamage, RunsOfLostHeadersAreStepsByTheirLength) {
  SampleOffsets offsets;
  const Bytes whole = sample_bytes(SaveMode::kDelta, 130, &offsets);
  for (const std::size_t first : {0u, 20u, 62u, 127u}) {
    Bytes damaged = whole;
    for (std::size_t step = first; step < first + 3; ++step) {
      damaged[offsets.step_ends[step] - (offsets.step_ends[1] - offsets.step_ends[0])] ^=
          std::byte{1};
    }
    const FileVerdict verdict = verify(damaged);
    std::string found;
    for (const Damage& damage : verdict.damages) found += damage.record + " ";
    EXPECT_EQ(verdict.num_steps, 130u) << first;
    EXPECT_EQ(verdict.intact_steps, first);
    EXPECT_EQ(found, "STEP " + std::to_string(first) + "-" + std::to_string(first + 2) + " ");
  }
}

TEST(KvcVerifyDamage, SwappedAndForeignStepsAreNamed) {
  SampleOffsets offsets;
  Bytes swapped = sample_bytes(SaveMode::kDelta, 3, &offsets);
  const auto at = [&](std::size_t step) {
    return swapped.begin() + static_cast<std::ptrdiff_t>(offsets.step_ends[step]);
  };
  std::swap_ranges(at(0), at(1), at(1));
  const FileVerdict verdict = verify(swapped);
  EXPECT_EQ(verdict.num_steps, 3u);
  EXPECT_EQ(verdict.intact_steps, 1u);
  EXPECT_THAT(verdict.damages.front().problem, HasSubstr("STEP 2"));
}

TEST(KvcVerifyDamage, ADamagedFileMayAlsoEndEarly) {
  SampleOffsets offsets;
  Bytes bytes = sample_bytes(SaveMode::kDelta, 5, &offsets);
  bytes.resize(offsets.step_ends[3] + 7);
  bytes[offsets.step_ends[1] - 1] ^= std::byte{1};  // a gap behind the last row of step 1
  const FileVerdict verdict = verify(bytes);
  EXPECT_EQ(verdict.state, FileState::kDamaged);
  EXPECT_EQ(verdict.num_steps, 4u);
  EXPECT_EQ(verdict.intact_steps, 1u);
  EXPECT_THAT(verdict.truncation, HasSubstr("within a record header"));
}

TEST(KvcVerifyUnknown, RecordsOfUnknownTypesAreCheckedToo) {
  RawRecording raw(sample_header(SaveMode::kDelta));
  raw.meta().prompt();
  const std::uint64_t unknown = raw.bytes.size();
  Bytes bytes = raw.unknown(1000)
                    .prefill()
                    .prefill_end()
                    .step(0)
                    .step(1)
                    .unknown(9)
                    .summary()
                    .trailer()
                    .bytes;
  EXPECT_EQ(verify(bytes).state, FileState::kIntact);
  bytes[unknown + 64 + 500] ^= std::byte{1};
  EXPECT_THAT(places(verify(bytes)), ElementsAre("record of unknown type 77"));
}

TEST(KvcVerifyUnknown, TheyDoNotStandForRecordsThatAreMissing) {
  const auto raw = [](SaveMode mode) { return RawRecording(sample_header(mode)).meta().prompt(); };
  const Bytes no_prefill = raw(SaveMode::kDelta)
                               .unknown(500)
                               .summary()
                               .trailer([](Trailer& trailer) { trailer.num_steps = 7; })
                               .bytes;
  EXPECT_EQ(verify(no_prefill).state, FileState::kDamaged);
  EXPECT_EQ(verify(no_prefill).num_steps, 0u);
  const Bytes no_final =
      raw(SaveMode::kFinalOnly).prefill_end().step(0).unknown(500).summary().trailer().bytes;
  EXPECT_EQ(verify(no_final).state, FileState::kDamaged);
  EXPECT_THROW(static_cast<void>(open_bytes(no_final)), Error);
}

// A record of a foreign writer may have any length and number.
TEST(KvcVerifyForeign, AStepThatIsTooShortIsNotReadPastTheEnd) {
  for (const std::uint64_t index : {std::uint64_t{1}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    const Bytes bytes = RawRecording(sample_header(SaveMode::kDelta))
                            .begin()
                            .step(0)
                            .checksums(1)
                            .record(RecordType::kStep, index, {})
                            .bytes;
    const FileVerdict verdict = verify(bytes);
    EXPECT_EQ(verdict.state, FileState::kDamaged);
    ASSERT_EQ(verdict.damages.size(), 1u);
    EXPECT_EQ(verdict.damages[0].first_step, index);
    EXPECT_TRUE(verdict.damages[0].statistics);
  }
}

TEST(KvcVerifyForeign, AStepOutOfOrderSaysNothingAboutLostOnesBehindIt) {
  RawRecording raw(sample_header(SaveMode::kPrefillOnly));
  raw.begin().step(0).step(std::uint64_t{1} << 40);
  const std::uint64_t lost = raw.bytes.size();
  Bytes bytes = raw.step(1).step(2).bytes;
  bytes[lost] ^= std::byte{1};
  const FileVerdict verdict = verify(bytes);
  EXPECT_EQ(verdict.state, FileState::kDamaged);
  EXPECT_LE(verdict.num_steps, 5u);
}

TEST(KvcVerifyForeign, WhatOnlyAForeignWriterMakesIsDamage) {
  const auto raw = [] { return RawRecording(sample_header(SaveMode::kDelta)); };
  const auto state = [](const Bytes& bytes) { return verify(bytes).state; };
  EXPECT_EQ(state(raw().begin().end().bytes), FileState::kIntact);
  EXPECT_EQ(state(raw().begin().step(1).summary().trailer().bytes), FileState::kDamaged);
  EXPECT_EQ(state(raw().begin().step(0).step(0).summary().trailer().bytes), FileState::kDamaged);
  EXPECT_EQ(state(raw().begin().step(0).unknown(8).step(1).summary().trailer().bytes),
            FileState::kDamaged);
  EXPECT_EQ(state(raw().begin().step(0).summary().summary().trailer().bytes), FileState::kDamaged);
  EXPECT_EQ(state(raw().meta().prompt().prefill_end().end().bytes), FileState::kDamaged);
  EXPECT_EQ(state(raw().begin().begin().end().bytes), FileState::kDamaged);
  EXPECT_EQ(state(raw().begin().step(0).trailer().bytes), FileState::kDamaged);
  EXPECT_EQ(state(raw()
                      .begin()
                      .step(0)
                      .summary()
                      .trailer([](Trailer& trailer) { trailer.num_steps = 2; })
                      .bytes),
            FileState::kDamaged);
  EXPECT_EQ(state(raw().prompt().bytes), FileState::kDamaged);
  EXPECT_EQ(state(raw().meta().prompt({1, 4, 50}).prefill().prefill_end().end().bytes),
            FileState::kDamaged);
  EXPECT_EQ(
      state(raw().text(RecordType::kMeta, "[1]").prompt().prefill().prefill_end().end().bytes),
      FileState::kDamaged);
  EXPECT_EQ(state(raw().begin().step(0, [](RecordHeader& r) { r.codec = 1; }).end().bytes),
            FileState::kDamaged);
}

// A realistic shape, several tasks and damages.
Bytes realistic(std::uint64_t prompt, std::uint64_t steps, SampleOffsets& offsets) {
  MemoryFileSystem files;
  RecordingHeader header = sample_header(SaveMode::kDelta);
  header.prompt_length = prompt;
  header.geometry =
      Geometry(std::vector<LayerGeometry>(12, {DType::kBFloat16, DType::kBFloat16, 3, 64, 64}));
  offsets = write_sample(files, "x.kvc", header, steps);
  return files.bytes("x.kvc");
}

TEST(KvcVerifyFiles, ThreadsDoNotChangeTheResult) {
  SampleOffsets offsets;
  Bytes damaged = realistic(20, 700, offsets);
  for (std::size_t i = 1; i < 700; i += 97) damaged[offsets.step_ends[i] - 500] ^= std::byte{1};
  MemoryFileSystem files;
  std::vector<std::filesystem::path> paths;
  for (int i = 0; i < 6; ++i) {
    paths.emplace_back(std::to_string(i) + ".kvc");
    files.put(paths.back(), i % 2 == 0 ? damaged : sample_bytes(SaveMode::kDelta, 3));
  }
  paths.emplace_back("none.kvc");
  const auto run = [&](unsigned threads) {
    std::vector<std::string> texts;
    std::uint64_t most = 0;
    VerifyOptions options{.file_system = &files, .threads = threads};
    options.on_progress = [&](std::uint64_t done) { most = std::max(most, done); };
    options.on_file = [&](const FileVerdict& verdict) {
      std::string text = verdict.path.string() + " " + std::string(file_state_name(verdict.state));
      for (const std::string& place : places(verdict)) text += "; " + place;
      texts.push_back(text);
    };
    EXPECT_THAT(verify_files(paths, options), SizeIs(7));
    EXPECT_GT(most, 3 * damaged.size() - 3000);
    return texts;
  };
  const std::vector<std::string> expected = run(1);
  EXPECT_THAT(expected[0], AllOf(HasSubstr("0.kvc damaged; STEP 1: "), HasSubstr("STEP 98: ")));
  EXPECT_EQ(expected[1], "1.kvc intact");
  EXPECT_EQ(expected[6], "none.kvc unreadable");
  EXPECT_EQ(run(4), expected);
}

TEST(KvcVerifyFiles, ReadsInBlocksWhateverTheSize) {
  SampleOffsets offsets;
  MemoryFileSystem files;
  files.put("x.kvc", realistic(2000, 300, offsets));
  files.bytes("x.kvc")[offsets.step_ends[5] - 3000] ^= std::byte{1};
  files.bytes("x.kvc")[offsets.prompt_end + 5000] ^= std::byte{1};
  ASSERT_GT(files.bytes("x.kvc").size(), 80 * kVerifyBlockBytes / 4);
  EXPECT_THAT(verify_files({"x.kvc"}, {.file_system = &files, .threads = 2}).front().damages,
              SizeIs(2));
  EXPECT_LE(files.largest_read(), kVerifyBlockBytes);
}

TEST(KvcVerifyFiles, AnErrorOfACallbackEndsIt) {
  MemoryFileSystem files;
  files.put("x.kvc", sample_bytes(SaveMode::kDelta, 3));
  VerifyOptions options{.file_system = &files, .threads = 2};
  options.on_progress = [](std::uint64_t) { throw std::runtime_error("stop"); };
  EXPECT_THROW(static_cast<void>(verify_files({"x.kvc", "x.kvc"}, options)), std::runtime_error);
}

}  // namespace
}  // namespace kvtool::format
