// Every way in which a file may end early is a state; every way in which bytes
// may be wrong is an error.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>

#include "sample.h"
#include "support/error_of.h"
#include "support/stride.h"

namespace kvtool::format {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

Error open_error(const Bytes& bytes) {
  return error_of([&] { static_cast<void>(open_bytes(bytes)); });
}

void open_and_verify(const Bytes& bytes) { open_bytes(bytes).verify(); }

class CutOrDamaged : public testing::TestWithParam<SampleKind> {
 protected:
  CutOrDamaged() : whole_(sample_bytes(GetParam().header(), kSteps, &offsets_)) {}

  [[nodiscard]] std::uint64_t steps_before(std::uint64_t cut) const {
    return static_cast<std::uint64_t>(
        std::count_if(offsets_.step_ends.begin(), offsets_.step_ends.end(),
                      [cut](std::uint64_t end) { return end <= cut; }));
  }

  SampleOffsets offsets_;
  Bytes whole_;
};

class ExhaustiveCutOrDamaged : public CutOrDamaged {};

INSTANTIATE_TEST_SUITE_P(KvcReader, CutOrDamaged, testing::ValuesIn(kSampleKinds),
                         [](const auto& kind) { return kind.param.name(); });
INSTANTIATE_TEST_SUITE_P(KvcReader, ExhaustiveCutOrDamaged, testing::ValuesIn(kSampleKinds),
                         [](const auto& kind) { return kind.param.name(); });

TEST_P(ExhaustiveCutOrDamaged, CutAnywhereExposesExactlyTheWholeStepsBeforeTheCut) {
  const std::uint64_t first = offsets_.prompt_end + first_of(GetParam().mode);
  for (std::uint64_t cut = first; cut < whole_.size(); cut += kStride) {
    SCOPED_TRACE(cut);
    const Recording recording = open_bytes(first_bytes(whole_, cut));
    ASSERT_FALSE(recording.complete());
    ASSERT_NE(recording.truncation(), "");
    ASSERT_TRUE(recording.summary().is_null());
    ASSERT_EQ(recording.has_prefill(), cut >= offsets_.prefill_end);
    ASSERT_EQ(recording.num_steps(), steps_before(cut));
    if (recording.has_prefill()) {
      expect_sample(recording, steps_before(cut));
    } else {
      ASSERT_EQ(recording.num_cached_positions(), 0u);
      ASSERT_TRUE(recording.read_tokens().empty());
      ASSERT_THROW(static_cast<void>(recording.read_prefill_stats()), Error);
    }
    ASSERT_NO_THROW(recording.verify());
    if (HasFatalFailure()) return;
  }
}

TEST_P(CutOrDamaged, CutBeforeTheEndOfThePromptIsUnreadable) {
  for (std::uint64_t cut = 1; cut < offsets_.prompt_end; ++cut) {
    const Error error = open_error(first_bytes(whole_, cut));
    ASSERT_EQ(error.code(), ErrorCode::kCorrupt);
    ASSERT_THAT(error.what(), AllOf(StartsWith("x.kvc: the file ends within its "),
                                    EndsWith(": nothing can be read")))
        << cut;
  }
}

TEST_P(ExhaustiveCutOrDamaged, FlippedByteIsNeverAccepted) {
  constexpr std::array kMasks = {0x01, 0x80, 0xff};
  for (std::size_t which = 0; which < kMasks.size(); ++which) {
    for (std::size_t i = first_of(which); i < whole_.size(); i += kStride) {
      Bytes damaged = whole_;
      damaged[i] ^= static_cast<std::byte>(kMasks[which]);
      const Error error = error_of([&] { open_and_verify(damaged); });
      ASSERT_TRUE(error.code() == ErrorCode::kCorrupt ||
                  (error.code() == ErrorCode::kIncompatible && i < 24))
          << i << " " << error.what();
      ASSERT_THAT(error.what(), StartsWith("x.kvc: ")) << i;
    }
  }
}

TEST_P(ExhaustiveCutOrDamaged, FlippedByteIsNeverTakenForAnEarlyEnd) {
  for (std::size_t i = first_of(GetParam().mode); i < whole_.size(); i += kStride) {
    Bytes damaged = whole_;
    damaged[i] ^= std::byte{0x10};
    try {
      // Opening may leave payloads of K and V to whoever reads them.
      ASSERT_TRUE(open_bytes(damaged).complete()) << i;
    } catch (const Error& error) {
      ASSERT_THAT(error.what(), testing::Not(HasSubstr("ends within"))) << i;
    }
  }
}

TEST_P(CutOrDamaged, BytesBehindTheTrailerAreDamage) {
  for (const std::size_t extra : {1u, 63u, 64u, 128u, 1000u}) {
    for (const int value : {0, 0xa5}) {
      Bytes longer = whole_;
      longer.resize(longer.size() + extra, static_cast<std::byte>(value));
      EXPECT_THAT(open_error(longer).what(),
                  HasSubstr(std::to_string(extra) + " bytes behind the end of the recording"));
    }
  }
}

TEST_P(CutOrDamaged, ZerosBehindAWholeRecordAreATornTail) {
  for (const std::uint64_t end : offsets_.step_ends) {
    Bytes torn = first_bytes(whole_, end);
    torn.resize(end + 4096);
    const Recording recording = open_bytes(torn);
    EXPECT_THAT(recording.truncation(), HasSubstr("only zeros"));
    expect_sample(recording, steps_before(end));
  }
}

TEST_P(CutOrDamaged, HalfWrittenLastStepIsATornTail) {
  Bytes torn = first_bytes(whole_, offsets_.step_ends[1]);
  std::fill(torn.begin() + static_cast<std::ptrdiff_t>(offsets_.step_ends[0]) + 100, torn.end(),
            std::byte{0});
  for (const std::size_t zeros : {0u, 10u, 5000u}) {
    torn.resize(offsets_.step_ends[1] + zeros);
    const Recording recording = open_bytes(torn);
    EXPECT_THAT(recording.truncation(), HasSubstr("STEP 1 is torn"));
    expect_sample(recording, 1);
    EXPECT_NO_THROW(recording.verify());
  }
}

TEST_P(CutOrDamaged, DamagedStepWithMoreBehindItIsNotATornTail) {
  Bytes damaged = first_bytes(whole_, offsets_.step_ends[2]);
  damaged[offsets_.step_ends[0] + 64 + 8] ^= std::byte{1};
  EXPECT_EQ(std::string(open_error(damaged).what()),
            "x.kvc: STEP 1 at byte " + std::to_string(offsets_.step_ends[0]) +
                ": the payload's checksum is wrong: the file is damaged, copy it again or record "
                "again");
}

TEST_P(CutOrDamaged, DamagedRecordHeaderIsNamedByWhatCameBefore) {
  Bytes damaged = whole_;
  damaged[offsets_.step_ends[0] + 3] ^= std::byte{1};
  damaged.resize(whole_.size() - 1);
  const std::string where = "x.kvc: at byte " + std::to_string(offsets_.step_ends[0]);
  EXPECT_THAT(open_error(damaged).what(),
              AllOf(StartsWith(where), HasSubstr("after the prefill and 1 whole steps"),
                    HasSubstr("wrong checksum")));
}

TEST_P(CutOrDamaged, SwappedStepsAreNoticed) {
  Bytes swapped = whole_;
  const auto at = [&](std::size_t step) {
    return swapped.begin() + static_cast<std::ptrdiff_t>(offsets_.step_ends[step]);
  };
  std::swap_ranges(at(0), at(1), at(1));
  const Recording recording = open_bytes(swapped);
  EXPECT_THAT(error_of([&] { static_cast<void>(recording.read_step_stats(1)); }).what(),
              HasSubstr("STEP 2 belongs at byte " + std::to_string(offsets_.step_ends[1])));
  EXPECT_THAT(error_of([&] { recording.verify(); }).what(), HasSubstr("belongs at byte"));
}

TEST_P(CutOrDamaged, StepOfAnotherRecordingIsNoticed) {
  MemoryFileSystem files;
  RecordingHeader header = GetParam().header();
  header.uuid[15] ^= 1;
  write_sample(files, "other.kvc", header, kSteps);
  const Bytes& other = files.bytes("other.kvc");
  Bytes mixed = whole_;
  std::copy(other.begin() + static_cast<std::ptrdiff_t>(offsets_.step_ends[0]),
            other.begin() + static_cast<std::ptrdiff_t>(offsets_.step_ends[1]),
            mixed.begin() + static_cast<std::ptrdiff_t>(offsets_.step_ends[0]));
  const Recording recording = open_bytes(mixed);
  EXPECT_THAT(error_of([&] { static_cast<void>(recording.read_step_stats(1)); }).what(),
              HasSubstr("STEP 1 belongs to another recording"));
  EXPECT_THAT(error_of([&] { recording.verify(); }).what(),
              HasSubstr("belongs to another recording"));
}

TEST_P(CutOrDamaged, TwoRecordingsInOneFileAreDamage) {
  Bytes twice = whole_;
  twice.insert(twice.end(), whole_.begin(), whole_.end());
  EXPECT_EQ(open_error(twice).code(), ErrorCode::kCorrupt);
}

TEST_P(CutOrDamaged, PaddingMustBeZero) {
  MemoryFileSystem files;
  RecordingHeader header = GetParam().header();
  // PROMPT of 3 tokens: 12 bytes and 52 of padding before the next record.
  Bytes damaged = whole_;
  damaged[offsets_.prompt_end - 1] = std::byte{1};
  const Recording recording = open_bytes(damaged);
  EXPECT_THAT(error_of([&] { recording.verify(); }).what(),
              AllOf(HasSubstr("PROMPT"), HasSubstr("padding")));
}

TEST(KvcReader, DamagedPrefillNamesItsLayer) {
  SampleOffsets offsets;
  Bytes damaged = sample_bytes(SaveMode::kDelta, 1, &offsets);
  damaged[offsets.prompt_end + 64] ^= std::byte{1};
  const Recording recording = open_bytes(damaged);
  const LayerGeometry shape = recording.geometry().layer(0);
  Bytes key(shape.key_bytes());
  Bytes value(shape.value_bytes());
  const std::string expected = "x.kvc: PREFILL of layer 0 at byte " +
                               std::to_string(offsets.prompt_end) +
                               ": the payload's checksum is wrong";
  EXPECT_THAT(error_of([&] { recording.read_layer(0, 1, key, value); }).what(),
              StartsWith(expected));
  EXPECT_THAT(error_of([&] { recording.verify(); }).what(), StartsWith(expected));
}

TEST(KvcReader, DamagedFinalStateNamesItsLayerEveryTime) {
  SampleOffsets offsets;
  Bytes damaged = sample_bytes(SaveMode::kFinalOnly, 2, &offsets);
  damaged[offsets.step_ends[1] + 64] ^= std::byte{1};
  const Recording recording = open_bytes(damaged);
  Bytes delta(recording.geometry().delta_bytes());
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(error_of([&] { recording.read_delta(0, delta); }).what(),
                HasSubstr("FINAL of layer 0 at byte " + std::to_string(offsets.step_ends[1])));
  }
}

TEST(KvcReader, DamagedDeltaIsFoundByEveryWayToReadIt) {
  SampleOffsets offsets;
  Bytes damaged = sample_bytes(SaveMode::kDelta, 2, &offsets);
  damaged[offsets.step_ends[1] - 1] ^= std::byte{1};  // layer 1's gap: no row at all
  const Recording recording = open_bytes(damaged);
  EXPECT_NO_THROW(static_cast<void>(recording.read_step_stats(1)));
  Bytes delta(recording.geometry().delta_bytes());
  EXPECT_NO_THROW(recording.read_delta(0, delta));
  EXPECT_THAT(error_of([&] { recording.read_delta(1, delta); }).what(), HasSubstr("STEP 1"));
  EXPECT_THAT(error_of([&] { static_cast<void>(recording.read_step(1, delta)); }).what(),
              HasSubstr("STEP 1"));
  Bytes key(recording.geometry().layer(0).key_bytes() * 5);
  Bytes value(recording.geometry().layer(0).value_bytes() * 5);
  EXPECT_THAT(error_of([&] { recording.read_layer(0, 5, key, value); }).what(),
              HasSubstr("STEP 1"));
}

TEST(KvcReader, FileThatShrinksWhileOpenIsAnError) {
  MemoryFileSystem files;
  write_sample(files, "x.kvc", sample_header(SaveMode::kDelta), 2);
  const Recording recording = Recording::open("x.kvc", {.file_system = &files});
  files.bytes("x.kvc").resize(1000);
  EXPECT_THAT(error_of([&] { recording.verify(); }).what(), HasSubstr("became shorter"));
}

TEST(KvcReader, FileThatLosesAStepWhileOpenIsAnError) {
  MemoryFileSystem files;
  SampleOffsets offsets;
  const Bytes whole = sample_bytes(SaveMode::kDelta, 2, &offsets);
  files.put("x.kvc", first_bytes(whole, offsets.step_ends[1]));
  const Recording recording = Recording::open("x.kvc", {.file_system = &files});
  EXPECT_NO_THROW(recording.verify());
  Bytes& bytes = files.bytes("x.kvc");
  std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(offsets.step_ends[0]), bytes.end(),
            std::byte{0});
  EXPECT_THAT(error_of([&] { recording.verify(); }).what(),
              HasSubstr("its records changed while it was open"));
}

TEST(KvcReader, RecordingInTheMakingIsReadUpToItsLastStep) {
  MemoryFileSystem files;
  const RecordingHeader header = sample_header(SaveMode::kPrefillOnly);
  RecordingWriter writer("x.kvc", header, sample_meta(), sample_prompt(header),
                         {.file_system = &files});
  for (std::uint32_t i = 0; i < 2; ++i) {
    writer.write_prefill_layer(i, sample_key(header.geometry, i, 3),
                               sample_value(header.geometry, i, 3));
  }
  writer.write_prefill_end(sample_prefill_stats(header));
  writer.write_step(sample_stats(header, 0), {});
  const Recording recording = Recording::open("x.kvc.partial", {.file_system = &files});
  writer.write_step(sample_stats(header, 1), {});
  expect_sample(recording, 1);
  EXPECT_NO_THROW(recording.verify());
  expect_sample(Recording::open("x.kvc.partial", {.file_system = &files}), 2);
}

}  // namespace
}  // namespace kvtool::format
