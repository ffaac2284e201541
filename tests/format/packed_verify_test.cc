// Damage of packed recordings is told as that of unpacked ones, and never missed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/layout.h"
#include "format/packed/packed_block.h"
#include "kvtool/format/pack.h"
#include "kvtool/format/recover.h"
#include "kvtool/format/verify.h"
#include "raw_recording.h"
#include "sample.h"
#include "support/error_of.h"
#include "support/stride.h"
#include "verified.h"

namespace kvtool::format {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// What recover makes of `bytes`; verified by it. Empty when nothing can be recovered.
struct Recovered {
  RecoverResult result;
  Bytes bytes;
};
std::optional<Recovered> recover(const Bytes& bytes, bool salvage = false) {
  MemoryFileSystem files;
  files.put("in.kvc", bytes);
  try {
    RecoverResult result =
        recover_recording("in.kvc", "out.kvc", {.file_system = &files, .salvage = salvage});
    return Recovered{std::move(result), files.exists("out.kvc") ? files.bytes("out.kvc") : Bytes()};
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorrupt) << error.what();
    EXPECT_FALSE(files.exists("out.kvc"));
    return std::nullopt;
  }
}

std::vector<RecordHeader> blocks_of(const Bytes& packed) {
  std::vector<RecordHeader> blocks = record_headers(packed);
  std::erase_if(blocks, [](const RecordHeader& record) { return record.type != kPackedRecord; });
  return blocks;
}

BlockTable table_of(const Bytes& packed, const RecordHeader& block) {
  const auto payload =
      std::span(packed).subspan(block.offset + kRecordHeaderBytes, block.stored_bytes);
  const std::uint64_t bytes = block_table_bytes(payload, payload.size()).value();
  BlockTable table;
  EXPECT_EQ(decode_block_table(payload.first(bytes), block.raw_bytes, payload.size(), table), "");
  return table;
}

// The block whose first row starts with this record of the original.
RecordHeader block_with(const Bytes& packed, const Bytes& original, RecordType type,
                        std::uint64_t index) {
  for (const RecordHeader& block : blocks_of(packed)) {
    const auto record =
        decode_record_header(std::span(original).subspan(block.index, kRecordHeaderBytes));
    if (record && record->type == type && record->index == index) return block;
  }
  ADD_FAILURE() << "no such block";
  return {};
}

Bytes with_damaged_section(Bytes packed, const RecordHeader& block, std::size_t section) {
  const BlockTable table = table_of(packed, block);
  packed[block.offset + kRecordHeaderBytes + table.sections.at(section).stream] ^= std::byte{1};
  return packed;
}

class PackedVerify : public testing::TestWithParam<SaveMode> {
 protected:
  PackedVerify()
      : original_(sample_bytes(GetParam(), kSteps)), packed_(packed_sample(GetParam(), kSteps)) {}

  [[nodiscard]] std::uint64_t front_end() const { return blocks_of(packed_).front().offset; }

  Bytes original_;
  Bytes packed_;
};

class ExhaustivePackedVerify : public PackedVerify {};

INSTANTIATE_TEST_SUITE_P(Kvc, PackedVerify,
                         testing::Values(SaveMode::kDelta, SaveMode::kPrefillOnly,
                                         SaveMode::kFinalOnly),
                         [](const auto& mode) { return std::string(save_mode_name(mode.param)); });
INSTANTIATE_TEST_SUITE_P(Kvc, ExhaustivePackedVerify,
                         testing::Values(SaveMode::kDelta, SaveMode::kPrefillOnly,
                                         SaveMode::kFinalOnly),
                         [](const auto& mode) { return std::string(save_mode_name(mode.param)); });

TEST_P(PackedVerify, AnIntactOneIsIntactAndCopiedAsItIs) {
  const FileVerdict verdict = verify(packed_);
  EXPECT_EQ(verdict.state, FileState::kIntact) << verdict.error;
  EXPECT_TRUE(verdict.packed);
  EXPECT_EQ(verdict.bytes, packed_.size());
  EXPECT_EQ(verdict.num_records, record_headers(original_).size());
  EXPECT_EQ(verdict.intact_steps, kSteps);
  EXPECT_THAT(verdict.damages, IsEmpty());
  const auto copy = recover(packed_);
  ASSERT_TRUE(copy);
  EXPECT_EQ(copy->bytes, packed_);
  EXPECT_THAT(copy->result.lost, IsEmpty());
}

TEST_P(ExhaustivePackedVerify, EveryFlippedByteIsDamage) {
  const std::uint64_t header_end = load<std::uint32_t>(packed_, 12);
  for (std::size_t i = first_of(GetParam()); i < packed_.size(); i += kStride) {
    SCOPED_TRACE(i);
    Bytes flipped = packed_;
    flipped[i] ^= std::byte{0x41};
    const FileVerdict verdict = verify(flipped);
    ASSERT_EQ(verdict.state, i < header_end ? FileState::kUnreadable : FileState::kDamaged);
    ASSERT_EQ(verdict.damages.empty(), i < header_end);
  }
}

// Nothing that is recovered is anything else than what was recorded.
TEST_P(ExhaustivePackedVerify, RecoversOnlyWhatIsIntactFromEveryFlippedByte) {
  const std::uint64_t header_end = load<std::uint32_t>(packed_, 12);
  std::size_t whole = 0;
  for (std::size_t i = header_end + first_of(GetParam()); i < packed_.size(); i += kStride) {
    SCOPED_TRACE(i);
    Bytes flipped = packed_;
    flipped[i] ^= std::byte{0x22};
    const auto recovered = recover(flipped);
    if (!recovered) continue;
    const Recording recording = open_bytes(recovered->bytes);
    ASSERT_FALSE(recording.packed());
    ASSERT_NO_THROW(recording.verify());
    ASSERT_EQ(recording.num_steps(), recovered->result.steps);
    ASSERT_EQ(recovered->result.steps, recovered->result.input.intact_steps);
    if (recovered->bytes == original_) ++whole;
    if (GetParam() != SaveMode::kDelta) continue;
    Bytes delta(recording.geometry().delta_bytes());
    for (std::uint64_t step = 0; step < recording.num_steps(); ++step) {
      ASSERT_EQ(recording.read_step(step, delta), sample_stats(recording.header(), step));
      ASSERT_EQ(delta, sample_delta(recording.geometry(), 3 + step));
    }
  }
  // Those of the packed records' headers at least.
  EXPECT_GE(whole, blocks_of(packed_).size() * (kRecordHeaderBytes / kStride));
}

TEST_P(PackedVerify, APackedRecordHeaderLosesNothing) {
  for (const RecordHeader& record : record_headers(packed_)) {
    if (record.type != kPackedRecord && record.type != kPackEndRecord) continue;
    Bytes flipped = packed_;
    flipped[record.offset + 9] ^= std::byte{1};
    const FileVerdict verdict = verify(flipped);
    ASSERT_EQ(verdict.state, FileState::kDamaged);
    ASSERT_THAT(verdict.damages, SizeIs(1));
    EXPECT_TRUE(verdict.damages.front().in_packed);
    EXPECT_EQ(verdict.damages.front().offset_bytes, record.offset);
    EXPECT_EQ(verdict.damages.front().record, "packed record " + std::to_string(record.sequence));
    EXPECT_EQ(verdict.intact_steps, kSteps);
    const auto recovered = recover(flipped);
    ASSERT_TRUE(recovered);
    EXPECT_EQ(recovered->bytes, original_);
    EXPECT_THAT(recovered->result.lost, IsEmpty());
  }
}

TEST_P(ExhaustivePackedVerify, CutAnywhereIsTruncatedAsTheReaderSays) {
  for (std::uint64_t cut = first_of(GetParam()); cut < packed_.size(); cut += kStride) {
    SCOPED_TRACE(cut);
    const Bytes bytes = first_bytes(packed_, cut);
    const FileVerdict verdict = verify(bytes);
    if (cut < front_end()) {
      ASSERT_EQ(verdict.state, FileState::kUnreadable);
      continue;
    }
    const Recording recording = open_bytes(bytes);
    ASSERT_EQ(verdict.state, FileState::kTruncated) << verdict.error;
    ASSERT_EQ(verdict.num_steps, recording.num_steps());
    ASSERT_EQ(verdict.intact_steps, recording.num_steps());
    ASSERT_EQ(verdict.complete, recording.complete());
    ASSERT_NE(verdict.truncation, "");
    const auto recovered = recover(bytes);
    if (!recovered) continue;
    ASSERT_EQ(recovered->result.steps, recording.num_steps());
    ASSERT_EQ(recovered->result.lost.empty(), recording.complete());
    if (recording.complete()) {
      ASSERT_EQ(recovered->bytes, original_);
    }
  }
}

TEST(PackedPlaces, EachSectionOfTheStepsIsALayersKeyOrValue) {
  const Bytes original = sample_bytes(SaveMode::kDelta, 10);
  const Bytes packed = packed_sample(SaveMode::kDelta, 10);
  const RecordHeader block = block_with(packed, original, RecordType::kStep, 0);
  ASSERT_THAT(table_of(packed, block).sections, SizeIs(5));
  EXPECT_THAT(places(verify(with_damaged_section(packed, block, 0))),
              ElementsAre("STEP 0-9: statistics, no K/V"));
  const std::array columns = {"layer 0, K", "layer 0, V", "layer 1, K", "layer 1, V"};
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const FileVerdict verdict = verify(with_damaged_section(packed, block, i + 1));
    EXPECT_THAT(places(verdict),
                ElementsAre("STEP 0-9: " + std::string(columns[i]) + ", positions 3-12"));
    EXPECT_THAT(verdict.damages.front().problem,
                AllOf(HasSubstr("packed record at byte " + std::to_string(block.offset)),
                      HasSubstr("section at column")));
    EXPECT_FALSE(verdict.damages.front().in_packed);
    EXPECT_EQ(verdict.num_steps, 10u);
    EXPECT_EQ(verdict.intact_steps, 0u);
  }
}

TEST(PackedPlaces, EachSectionOfAStateIsItsKeyOrValue) {
  for (const SaveMode mode : {SaveMode::kDelta, SaveMode::kFinalOnly}) {
    const bool final_only = mode == SaveMode::kFinalOnly;
    const Bytes original = sample_bytes(mode, kSteps);
    const Bytes packed = packed_sample(mode, kSteps);
    const RecordHeader block =
        block_with(packed, original, final_only ? RecordType::kFinal : RecordType::kPrefill, 1);
    const std::string name = final_only ? "FINAL of layer 1" : "PREFILL of layer 1";
    const std::string where = final_only ? ", positions 0-5" : ", positions 0-2";
    EXPECT_THAT(places(verify(with_damaged_section(packed, block, 0))),
                ElementsAre(name + ": no K/V"));
    EXPECT_THAT(places(verify(with_damaged_section(packed, block, 1))),
                ElementsAre(name + ": layer 1, K" + where));
    EXPECT_THAT(places(verify(with_damaged_section(packed, block, 2))),
                ElementsAre(name + ": layer 1, V" + where));
  }
}

// No CHECKSUMS are needed, and no step is blamed for another.
TEST(PackedPlaces, ATruncatedFileTellsLayersToo) {
  const Bytes original = sample_bytes(SaveMode::kDelta, 10);
  const Bytes packed = packed_sample(SaveMode::kDelta, 10);
  const RecordHeader block = block_with(packed, original, RecordType::kStep, 0);
  const Bytes cut = first_bytes(with_damaged_section(packed, block, 4),
                                block.offset + record_bytes(block.stored_bytes) + 100);
  const FileVerdict verdict = verify(cut);
  EXPECT_EQ(verdict.state, FileState::kDamaged);
  EXPECT_THAT(places(verdict), ElementsAre("STEP 0-9: layer 1, V, positions 3-12"));
  EXPECT_NE(verdict.truncation, "");
}

class PackedBlocks : public testing::Test {
 protected:
  static constexpr std::uint64_t kMany = 6000;
  PackedBlocks()
      : original_(sample_bytes(SaveMode::kDelta, kMany, &offsets_)),
        packed_(packed_sample(SaveMode::kDelta, kMany)) {
    stride_ = offsets_.step_ends[1] - offsets_.step_ends[0];
    for (const RecordHeader& block : blocks_of(packed_)) {
      if (block.index >= offsets_.prefill_end && block.index < offsets_.data_end) {
        blocks_.push_back(block);
      }
    }
    std::erase_if(blocks_, [&](const RecordHeader& block) {
      return table_of(packed_, block).sections.size() != 5;
    });
  }
  [[nodiscard]] std::uint64_t first_step(const RecordHeader& block) const {
    return (block.index - (offsets_.step_ends[0] - stride_)) / stride_;
  }

  SampleOffsets offsets_;
  Bytes original_;
  Bytes packed_;
  std::uint64_t stride_ = 0;
  std::vector<RecordHeader> blocks_;  // of steps
};

TEST_F(PackedBlocks, StepsBeforeADamagedOneAreKeptAndThoseBehindItSalvaged) {
  ASSERT_GT(blocks_.size(), 3u);
  const std::uint64_t first = first_step(blocks_[1]);
  const std::uint64_t behind = first_step(blocks_[2]);
  const auto recovered = recover(with_damaged_section(packed_, blocks_[1], 3), true);
  ASSERT_TRUE(recovered);
  EXPECT_EQ(recovered->result.steps, first);
  EXPECT_EQ(recovered->result.salvaged_steps, kMany - behind);
  const Recording recording = open_bytes(recovered->bytes);
  Bytes delta(recording.geometry().delta_bytes());
  EXPECT_EQ(recording.read_step(first - 1, delta), sample_stats(recording.header(), first - 1));
  EXPECT_EQ(delta, sample_delta(recording.geometry(), 3 + first - 1));
}

TEST_F(PackedBlocks, TwoLostRecordsLoseTheirStepsOnly) {
  Bytes damaged = packed_;
  damaged[blocks_[1].offset] ^= std::byte{1};
  damaged[blocks_[2].offset] ^= std::byte{1};
  const FileVerdict verdict = verify(damaged);
  ASSERT_THAT(verdict.damages, SizeIs(2));
  EXPECT_EQ(verdict.damages[0].first_step, first_step(blocks_[1]));
  EXPECT_EQ(verdict.damages[0].last_step, first_step(blocks_[3]) - 1);
  EXPECT_THAT(describe_place(verdict.damages[0]), HasSubstr("layers 0-1, K and V"));
  EXPECT_TRUE(verdict.damages[1].in_packed);
  EXPECT_EQ(verdict.num_steps, kMany);
}

TEST_F(PackedBlocks, ThreadsAgree) {
  Bytes damaged = with_damaged_section(packed_, blocks_[2], 1);
  damaged = with_damaged_section(damaged, blocks_[2], 4);
  damaged = with_damaged_section(damaged, blocks_[0], 2);
  const FileVerdict one = verify(damaged, 1);
  EXPECT_THAT(places(one), SizeIs(2));
  for (const unsigned threads : {2u, 7u}) {
    const FileVerdict many = verify(damaged, threads);
    EXPECT_EQ(places(many), places(one));
    EXPECT_EQ(many.intact_steps, one.intact_steps);
  }
}

// What the sections left out says that it is wrong, though all of the original is right.
TEST(PackedStored, PaddingAndPackEndAreChecked) {
  const Bytes packed = packed_sample(SaveMode::kDelta, kSteps);
  for (const RecordHeader& record : record_headers(packed)) {
    if (record.type != kPackedRecord && record.type != kPackEndRecord) continue;
    const std::uint64_t end = record.offset + record_bytes(record.stored_bytes);
    if (end == record.offset + kRecordHeaderBytes + record.stored_bytes) continue;
    Bytes flipped = packed;
    flipped[end - 1] ^= std::byte{1};
    const FileVerdict verdict = verify(flipped);
    ASSERT_THAT(verdict.damages, SizeIs(1));
    EXPECT_TRUE(verdict.damages.front().in_packed);
    EXPECT_THAT(verdict.damages.front().problem, HasSubstr("not zero"));
  }
  Bytes longer = packed;
  longer.resize(longer.size() + 64);
  EXPECT_THAT(verify(longer).damages.front().problem, HasSubstr("not the end of the file"));
}

// Bytes of a damaged section that happen to be right are damaged all the same: here only the
// checksum of the section is wrong, and the table's is right.
TEST(PackedStored, RightBytesUnderAWrongChecksumAreDamaged) {
  const Bytes original = sample_bytes(SaveMode::kDelta, 10);
  Bytes packed = packed_sample(SaveMode::kDelta, 10);
  const RecordHeader block = block_with(packed, original, RecordType::kStep, 0);
  const auto payload =
      std::span(packed).subspan(block.offset + kRecordHeaderBytes, block.stored_bytes);
  const std::size_t entry = 16 + 40 * 2;
  store(payload, entry + 24, std::uint64_t{1});
  StreamingChecksum sum;
  sum.update(payload.first(8));
  sum.update(payload.subspan(16, 40 * 5));
  store(payload, 8, sum.digest());
  RecordHeader header = block;
  header.payload_checksum = checksum(payload);
  encode_record_header(header, std::span(packed).subspan(block.offset, kRecordHeaderBytes));
  const FileVerdict verdict = verify(packed);
  EXPECT_THAT(places(verdict), ElementsAre("STEP 0-9: layer 0, V, positions 3-12"));
  EXPECT_EQ(verdict.intact_steps, 0u);
}

}  // namespace
}  // namespace kvtool::format
