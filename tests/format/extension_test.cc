// What version 1.1 adds: coded rows and a sample of logits. That files with them are read,
// cut, damaged and recovered as all others is for the tests over kSampleKinds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "format/layout.h"
#include "kvtool/format/coded_row.h"
#include "kvtool/format/logit_sample.h"
#include "kvtool/format/pack.h"
#include "kvtool/format/safetensors.h"
#include "kvtool/format/verify.h"
#include "raw_recording.h"
#include "support/error_of.h"

namespace kvtool::format {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<float> decoded(const RowCode& code, const Bytes& row, std::size_t dim) {
  std::vector<float> values(dim);
  decode_row(code, row, values);
  return values;
}

class Extended : public testing::TestWithParam<SaveMode> {};

INSTANTIATE_TEST_SUITE_P(Kvc, Extended,
                         testing::Values(SaveMode::kDelta, SaveMode::kPrefillOnly,
                                         SaveMode::kFinalOnly),
                         [](const auto& mode) { return std::string(save_mode_name(mode.param)); });

TEST_P(Extended, WhatIsWrittenIsRead) {
  const RecordingHeader header = extended_header(GetParam());
  const Recording recording = open_bytes(sample_bytes(header, kSteps));
  EXPECT_EQ(recording.geometry(), header.geometry);
  EXPECT_EQ(recording.header().logits_sample, 3u);
  EXPECT_TRUE(recording.complete());
  expect_sample(recording, kSteps);
  EXPECT_NO_THROW(recording.verify());
}

TEST_P(Extended, PackingGivesBackEveryByte) {
  const Bytes original = sample_bytes(extended_header(GetParam()), kSteps);
  const Bytes packed = packed_bytes(original);
  expect_sample(open_bytes(packed), kSteps);
  MemoryFileSystem files;
  files.put("x.kvc", packed);
  unpack_recording("x.kvc", {.file_system = &files});
  EXPECT_EQ(files.bytes("x.kvc"), original);
}

// What a reader of version 1.0 looks at first: magic, major version, feature bits.
TEST_P(Extended, IsRefusedByItsBitWhereTheBitIsNotKnown) {
  const Bytes bytes = sample_bytes(extended_header(GetParam()), kSteps);
  EXPECT_EQ(load<std::uint16_t>(bytes, 8), 1);
  EXPECT_EQ(load<std::uint16_t>(bytes, 10), 1);
  EXPECT_EQ(load<std::uint64_t>(bytes, 16), kExtendedFeature);
  const Bytes plain = sample_bytes(GetParam(), kSteps);
  EXPECT_EQ(load<std::uint16_t>(plain, 10), 0);
  EXPECT_EQ(load<std::uint64_t>(plain, 16), 0u);
}

TEST(KvcExtension, SampleAloneOrOneCodedLayerAloneIsEnough) {
  for (const bool coded : {false, true}) {
    RecordingHeader header = sample_header(SaveMode::kDelta);
    if (coded) {
      std::vector<LayerGeometry> layers = header.geometry.layers();
      layers[0].value_code = RowCode{CodeType::kInt4, DType::kFloat32, false, 4};
      header.geometry = Geometry(layers);
    } else {
      header.logits_sample = header.vocab_size;
    }
    expect_sample(open_bytes(sample_bytes(header, kSteps)), kSteps);
  }
}

TEST(KvcExtension, ImpossibleValuesAreDamage) {
  const RecordingHeader header = extended_header(SaveMode::kDelta);
  const std::size_t at = kHeaderFixedBytes + kLayerEntryBytes * header.geometry.num_layers();
  const auto expect = [&](const char* message, std::size_t offset, auto value) {
    const Bytes bytes = RawRecording(header).patch_header(offset, value).bytes;
    const Error error = error_of([&] { static_cast<void>(open_bytes(bytes)); });
    EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
    EXPECT_THAT(error.what(), HasSubstr(message));
  };
  expect("sample of 51 logits", at, std::uint32_t{51});
  expect("step stride", at, std::uint32_t{40});
  const std::size_t key = at + kExtensionFixedBytes;
  expect("scales and decoded values are float32", key, std::uint8_t{4});
  expect("unknown element type", key + 1, std::uint8_t{6});
  expect("scales and decoded values are float32", key + 1, std::uint8_t{4});
  expect("group of channels is 0, allowed are 1 to 5", key + 4, std::uint32_t{0});
  expect("group of channels is 6, allowed are 1 to 5", key + 4, std::uint32_t{6});
  expect("unknown element type", key, std::uint8_t{0});  // int4 without scales
  expect("unknown type of codes", kHeaderFixedBytes, std::uint8_t{10});
  expect("unknown type of codes", kHeaderFixedBytes, std::uint8_t{1});
  expect("delta length", key + 2 * kExtensionEntryBytes + 2, std::uint8_t{0});
}

TEST(KvcExtension, WithoutItsBitCodesAreUnknownElements) {
  const Bytes bytes =
      RawRecording(extended_header(SaveMode::kDelta)).patch_header(16, std::uint64_t{0}).bytes;
  const Error error = error_of([&] { static_cast<void>(open_bytes(bytes)); });
  EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
  EXPECT_THAT(error.what(), HasSubstr("layer 0: unknown element type"));
}

TEST(KvcExtension, LongHeadersWithoutRoomForItAreDamage) {
  const Bytes bytes = RawRecording(sample_header(SaveMode::kDelta))
                          .patch_header(10, std::uint16_t{9})
                          .patch_header(16, kExtendedFeature)
                          .bytes;
  const Error error = error_of([&] { static_cast<void>(open_bytes(bytes)); });
  EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
  EXPECT_THAT(error.what(), HasSubstr("does not fit 2 layers"));
}

TEST(KvcExtension, WriterRefusesAnotherSample) {
  RecordingHeader header = extended_header(SaveMode::kPrefillOnly);
  StepStats stats = sample_prefill_stats(header);
  stats.sampled_logits.pop_back();
  EXPECT_EQ(stats_problem(header, stats, true), "a sample of 2 logits, the header says 3");
}

TEST(KvcExtension, ReadersOfPlainNumbersRefuseCodedRowsByName) {
  MemoryFileSystem files;
  const Recording recording = open_bytes(sample_bytes(extended_header(SaveMode::kDelta), kSteps));
  const Error error = error_of([&] { write_safetensors(recording, 0, "x.safetensors", &files); });
  EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
  EXPECT_STREQ(error.what(),
               "x.kvc: layer 0 holds K as int4 codes with scales, which a safetensors file cannot "
               "read");
}

TEST(KvcExtension, AnotherCodeIsAnotherGeometry) {
  const Geometry geometry = extended_header(SaveMode::kDelta).geometry;
  std::vector<LayerGeometry> layers = geometry.layers();
  layers[1].key_code->group_channels = 1;
  EXPECT_EQ(describe_difference(geometry, Geometry(layers)),
            "layer 1: int8 (float32 scales for 5 channels, 1 positions) keys against int8 (float32 "
            "scales for 1 channels, 1 positions)");
  layers[1].key_code.reset();
  EXPECT_THAT(describe_difference(geometry, Geometry(layers)), HasSubstr("against plain"));
}

TEST(CodedRow, Int8TimesOneScale) {
  // 0.5 in float32 behind three codes and a byte of zeros.
  const Bytes row = bytes_of({1, 0x80, 0xff, 0, 0, 0, 0, 0x3f});
  EXPECT_THAT(decoded({CodeType::kInt8, DType::kFloat32, false, 3}, row, 3),
              ElementsAre(0.5F, -64.0F, -0.5F));
}

TEST(CodedRow, HalfBytesOfAnOddRow) {
  // Low half first; scales 1 and 2 in float16 for channels 0-1 and 2.
  const Bytes row = bytes_of({0x87, 0x0f, 0x00, 0x3c, 0x00, 0x40});
  EXPECT_THAT(decoded({CodeType::kInt4, DType::kFloat16, false, 2}, row, 3),
              ElementsAre(7.0F, -8.0F, -2.0F));
  EXPECT_THAT(decoded({CodeType::kUInt4, DType::kFloat16, false, 2}, row, 3),
              ElementsAre(7.0F, 8.0F, 30.0F));
}

TEST(CodedRow, OffsetsStandBehindAllScales) {
  // Scales 1 and 2, offsets -1 and 3, in bfloat16.
  const Bytes row = bytes_of({10, 200, 0x80, 0x3f, 0x00, 0x40, 0x80, 0xbf, 0x40, 0x40});
  EXPECT_THAT(decoded({CodeType::kUInt8, DType::kBFloat16, true, 1}, row, 2),
              ElementsAre(9.0F, 403.0F));
}

TEST(CodedRow, Float8CodesHaveScalesToo) {
  const Bytes row = bytes_of({0x38, 0xb8, 0, 0, 0, 0, 0, 0x40});  // 1 and -1 times 2
  EXPECT_THAT(decoded({CodeType::kFloat8E4M3, DType::kFloat32, false, 2}, row, 2),
              ElementsAre(2.0F, -2.0F));
}

TEST(CodedRow, IsRoundedOnceAtTheEnd) {
  // 3 * (1 + 2^-23) needs 25 bits; the offset -3 leaves 3 * 2^-23 of it, which float32 holds.
  const Bytes row = bytes_of({3, 0, 0, 0, 0x01, 0, 0x80, 0x3f, 0, 0, 0x40, 0xc0});
  EXPECT_THAT(decoded({CodeType::kInt8, DType::kFloat32, true, 1}, row, 1),
              ElementsAre(3.0F * 0x1p-23F));
}

TEST(CodedRow, AnotherLengthIsACallersMistake) {
  const RowCode code{CodeType::kInt8, DType::kFloat32, false, 3};
  EXPECT_EQ(coded_row_bytes(code, 3), 8u);
  std::vector<float> values(3);
  EXPECT_EQ(error_of([&] { decode_row(code, Bytes(7), values); }).code(), ErrorCode::kMisuse);
}

TEST(LogitSample, IdsAreThoseOfTheFormatPage) {
  EXPECT_THAT(sampled_ids(50, 3, 0), ElementsAre(7, 26, 37));
  EXPECT_THAT(sampled_ids(50, 3, 1), ElementsAre(4, 22, 40));
  EXPECT_THAT(sampled_ids(4, 4, 9), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(sampled_ids(50, 0, 9), ElementsAre());
}

TEST(LogitSample, CostsWhatTheFormatPageSays) {
  RecordingHeader header = sample_header(SaveMode::kDelta);  // of SmolLM2-135M
  header.logits_dtype = DType::kBFloat16;
  header.vocab_size = 49152;
  header.top_k = 32;
  header.geometry =
      Geometry(std::vector<LayerGeometry>(30, {DType::kBFloat16, DType::kBFloat16, 3, 64, 64}));
  EXPECT_EQ(header.geometry.delta_bytes(), 23040u);
  EXPECT_EQ(stats_block_bytes(header), 320u);
  EXPECT_EQ(step_stride_bytes(header), 23424u);
  header.logits_sample = 64;
  EXPECT_EQ(stats_block_bytes(header), 448u);
  EXPECT_EQ(step_stride_bytes(header), 23552u);
  EXPECT_LE(step_stride_bytes(header) * 100, header.geometry.delta_bytes() * 103);
}

TEST(LogitSample, IdsAscendInTheVocabularyAndCoverIt) {
  std::vector<int> hits(100);
  for (std::uint64_t token = 0; token < 2000; ++token) {
    std::int32_t last = -1;
    for (const std::int32_t id : sampled_ids(100, 7, token)) {
      ASSERT_GT(id, last);
      ASSERT_LT(id, 100);
      last = id;
      ++hits[static_cast<std::size_t>(id)];
    }
  }
  // 140 expected of each, with a deviation of 11.4.
  EXPECT_GT(*std::min_element(hits.begin(), hits.end()), 80);
  EXPECT_LT(*std::max_element(hits.begin(), hits.end()), 200);
}

}  // namespace
}  // namespace kvtool::format
