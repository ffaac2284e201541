// Packed files that end early, that have a wrong byte, or that nobody packed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/packed/packed_block.h"
#include "kvtool/format/pack.h"
#include "raw_recording.h"
#include "sample.h"
#include "support/error_of.h"
#include "support/stride.h"

namespace kvtool::format {
namespace {

using testing::HasSubstr;

struct FoundRecord {
  std::uint64_t offset = 0;
  RecordHeader header;
};

std::vector<FoundRecord> found_records(const Bytes& bytes) {
  std::vector<FoundRecord> found;
  std::uint64_t offset = load<std::uint32_t>(bytes, 12);
  while (offset < bytes.size()) {
    const auto header = decode_record_header(std::span(bytes).subspan(offset, kRecordHeaderBytes));
    found.push_back({offset, header.value()});
    offset += record_bytes(header->stored_bytes);
  }
  return found;
}

class ExhaustivePackedDamage : public testing::TestWithParam<SaveMode> {};

INSTANTIATE_TEST_SUITE_P(Kvc, ExhaustivePackedDamage,
                         testing::Values(SaveMode::kDelta, SaveMode::kPrefillOnly,
                                         SaveMode::kFinalOnly),
                         [](const auto& mode) { return std::string(save_mode_name(mode.param)); });

TEST_P(ExhaustivePackedDamage, EveryFlippedByteIsFound) {
  const Bytes packed = packed_sample(GetParam(), 3);
  for (std::size_t i = first_of(GetParam()); i < packed.size(); i += kStride) {
    Bytes flipped = packed;
    flipped[i] ^= std::byte{0x41};
    const Error error = error_of([&] { open_bytes(flipped).verify(); });
    ASSERT_TRUE(error.code() == ErrorCode::kCorrupt || error.code() == ErrorCode::kIncompatible)
        << i << " " << error.what();
  }
}

// Without verify(): what is read is right or refused, one record's damage is not another's.
TEST_P(ExhaustivePackedDamage, AFlippedByteNeverReadsAsOtherContent) {
  const Bytes packed = packed_sample(GetParam(), 3);
  for (std::size_t i = first_of(GetParam()); i < packed.size(); i += kStride) {
    Bytes flipped = packed;
    flipped[i] ^= std::byte{0x08};
    try {
      const Recording recording = open_bytes(flipped);
      ASSERT_TRUE(recording.complete()) << i;
      expect_sample(recording, 3);
      ASSERT_FALSE(HasFatalFailure()) << i;
    } catch (const Error&) {
      continue;
    }
  }
}

TEST_P(ExhaustivePackedDamage, CutAnywhereIsTruncatedOrRefused) {
  const Bytes packed = packed_sample(GetParam(), 3);
  const auto records = found_records(packed);
  const std::uint64_t front_end = records.at(2).offset;
  const std::uint64_t content_end = records.back().offset;
  for (std::uint64_t cut = first_of(GetParam()); cut < packed.size(); cut += kStride) {
    SCOPED_TRACE(cut);
    if (cut < front_end) {
      ASSERT_EQ(error_of([&] { static_cast<void>(open_bytes(first_bytes(packed, cut))); }).code(),
                ErrorCode::kCorrupt);
      continue;
    }
    const Recording recording = open_bytes(first_bytes(packed, cut));
    ASSERT_EQ(recording.complete(), cut >= content_end);
    if (recording.complete()) {
      expect_sample(recording, 3);
    } else if (recording.has_prefill() && recording.num_steps() > 0 &&
               GetParam() != SaveMode::kFinalOnly) {
      expect_sample(recording, 3);
    }
    ASSERT_NO_THROW(recording.verify());
  }
}

TEST(PackedCut, WholeBlocksOfStepsStay) {
  const Bytes packed = packed_sample(SaveMode::kDelta, 6000);
  std::vector<std::uint64_t> steps;
  for (const FoundRecord& record : found_records(packed)) {
    const Bytes cut = first_bytes(packed, record.offset + record_bytes(record.header.stored_bytes));
    if (record.header.type != kPackedRecord || cut.size() == packed.size()) continue;
    const Recording recording = open_bytes(cut);
    steps.push_back(recording.num_steps());
    if (recording.num_steps() == 0) continue;
    Bytes delta(recording.geometry().delta_bytes());
    const std::uint64_t last = recording.num_steps() - 1;
    ASSERT_EQ(recording.read_step(last, delta), sample_stats(recording.header(), last));
    ASSERT_EQ(delta, sample_delta(recording.geometry(), 3 + last));
    // One byte less, and the block is gone.
    ASSERT_EQ(open_bytes(first_bytes(cut, cut.size() - 1)).num_steps(),
              steps.size() < 2 ? 0 : steps[steps.size() - 2]);
  }
  EXPECT_TRUE(std::is_sorted(steps.begin(), steps.end()));
  EXPECT_GT(std::count_if(steps.begin(), steps.end(),
                          [](std::uint64_t count) { return count > 0 && count < 6000; }),
            2);
}

// Changes a block's record header or payload and makes all checksums right again.
using Change = std::function<void(RecordHeader& header, std::span<std::byte> payload)>;

Bytes forged(const Change& change) {
  Bytes bytes = packed_sample(SaveMode::kDelta, 40);
  const auto records = found_records(bytes);
  // The steps' block is the one with most rows.
  const auto most = std::max_element(records.begin() + 2, records.end() - 1,
                                     [&](const FoundRecord& a, const FoundRecord& b) {
                                       return load<std::uint32_t>(bytes, a.offset + 64) <
                                              load<std::uint32_t>(bytes, b.offset + 64);
                                     });
  RecordHeader header = most->header;
  const auto payload =
      std::span(bytes).subspan(most->offset + kRecordHeaderBytes, header.stored_bytes);
  change(header, payload);
  const std::uint64_t sections =
      std::min<std::uint64_t>(load<std::uint32_t>(payload, 4), (payload.size() - 16) / 40);
  StreamingChecksum sum;
  sum.update(payload.first(8));
  sum.update(payload.subspan(16, 40 * sections));
  store(payload, 8, sum.digest());
  header.payload_checksum = checksum(payload);
  encode_record_header(header, std::span(bytes).subspan(most->offset, kRecordHeaderBytes));
  return bytes;
}

void expect_refused(const Change& change, const char* part) {
  const Bytes bytes = forged(change);
  const Error error = error_of([&] {
    const Recording recording = open_bytes(bytes);
    Bytes delta(recording.geometry().delta_bytes());
    static_cast<void>(recording.read_step(0, delta));
  });
  EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
  EXPECT_THAT(error.what(), HasSubstr(part));
}

TEST(PackedBomb, LengthsAreCheckedBeforeMemoryIsTaken) {
  const auto raw = [](std::uint64_t bytes) {
    return [bytes](RecordHeader& header, auto) { header.raw_bytes = bytes; };
  };
  expect_refused(raw(std::uint64_t{1} << 62), "impossible place or lengths");
  expect_refused(raw(kMaxBlockBytes + 1), "impossible place or lengths");
  expect_refused(raw(kMaxBlockBytes), "impossible place or lengths");  // of a few kB
  expect_refused(raw(0), "impossible place or lengths");
  expect_refused([](RecordHeader& header, auto) { header.stored_bytes = std::uint64_t{1} << 60; },
                 "impossible place or lengths");
  expect_refused([](RecordHeader& header, auto) { header.index += 64; },
                 "impossible place or lengths");
}

TEST(PackedBomb, TablesMustFillTheBlock) {
  const auto word = [](std::size_t at, std::uint32_t value) {
    return [at, value](RecordHeader&, std::span<std::byte> payload) { store(payload, at, value); };
  };
  constexpr std::size_t kFirst = 16;
  expect_refused(word(0, 0), "rows do not fit");
  expect_refused(word(0, 7), "rows do not fit");
  expect_refused(word(4, 0), "table has an impossible length");
  expect_refused(word(4, 0xffffffffu), "table has an impossible length");
  expect_refused(word(4, 1), "do not fill its rows");
  expect_refused(word(kFirst, 0), "impossible shape");
  expect_refused(word(kFirst, 0xfffffff0u), "impossible shape");
  expect_refused(word(kFirst + 4, 3), "impossible shape");
  expect_refused(word(kFirst + 8, 0), "impossible length");
  expect_refused(word(kFirst + 8, 0x7fffffffu), "impossible length");
  expect_refused(word(kFirst + 12, 1), "impossible length");
  // A frame that ends early, with a checksum that says nothing against it.
  expect_refused(
      [](RecordHeader&, std::span<std::byte> payload) {
        const auto stored = load<std::uint32_t>(payload, kFirst + 8) - 1;
        const std::size_t streams = 16 + 40 * load<std::uint32_t>(payload, 4);
        store(payload, kFirst + 8, stored);
        store(payload, kFirst + 24, checksum(payload.subspan(streams, stored)));
      },
      "cannot be decompressed");
  expect_refused(
      [](RecordHeader&, std::span<std::byte> payload) {
        store(payload, kFirst + 32, std::uint64_t{1});
      },
      "what it unpacks to is wrong");
}

TEST(PackedBomb, AnUnknownCodecIsRefused) {
  const Bytes bytes = forged([](RecordHeader& header, auto) { header.codec = 2; });
  const Error error = error_of([&] { static_cast<void>(open_bytes(bytes)); });
  EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
  EXPECT_THAT(error.what(), HasSubstr("is packed with codec 2"));
}

}  // namespace
}  // namespace kvtool::format
