// Files of other programs, of other versions, and with headers that cannot be: refused with a
// message that says why.
#include <string>

#include "damage_expectations.h"

namespace kvtool::format {
namespace {

using testing::HasSubstr;

TEST(KvcForeignFile, IsNamedByItsFirstBytes) {
  expect_corrupt({}, "empty file, not a kvtool recording");
  expect_corrupt(bytes_of({'P', 'K', 3, 4, 20, 0}),
                 "not a kvtool recording (starts with 50 4B 03 04, a ZIP archive or TorchScript "
                 "file?)");
  expect_corrupt(bytes_of({0x1f, 0x8b, 8}),
                 "not a kvtool recording (starts with 1F 8B 08, a gzip file?)");
  expect_corrupt(bytes_of({'{', '}'}), "not a kvtool recording (starts with 7B 7D, a JSON file?)");
  expect_corrupt(bytes_of({0x89, 'K', 'V', 'T', 0x0A, 0x1A, 0x0A, 1}),
                 "not a kvtool recording (starts with 89 4B 56 54, a recording changed by a "
                 "text-mode transfer?)");
  expect_corrupt(Bytes(1000), "not a kvtool recording (starts with 00 00 00 00)");
}

TEST(KvcForeignFile, FolderIsNoRecording) {
  const Error error = error_of([] { static_cast<void>(Recording::open("/")); });
  EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
  EXPECT_THAT(error.what(), HasSubstr("is a directory"));
}

TEST(KvcVersions, NewerMajorVersionIsRefused) {
  const Error error = open_error(raw().patch_header(8, std::uint16_t{2}).begin().end().bytes);
  EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
  EXPECT_STREQ(error.what(), "x.kvc: format version 2, this kvtool reads version 1: update kvtool");
}

TEST(KvcVersions, UnknownIncompatibleFeatureIsRefused) {
  const Error error = open_error(raw().patch_header(16, std::uint64_t{0x30}).begin().end().bytes);
  EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
  EXPECT_STREQ(error.what(),
               "x.kvc: uses format features that this kvtool does not know (bits 0x30): update "
               "kvtool");
}

TEST(KvcVersions, UnknownCompatibleFeatureIsIgnored) {
  const Bytes bytes = raw().patch_header(24, ~std::uint64_t{0}).begin().end().bytes;
  expect_sample(open_bytes(bytes), 2);
}

TEST(KvcVersions, FieldsThatALaterMinorVersionAppendsAreIgnored) {
  const Recording recording = open_bytes(raw().grow_header(128, 7).begin().end().bytes);
  expect_sample(recording, 2);
  EXPECT_NO_THROW(recording.verify());
  expect_corrupt(raw().grow_header(128, 0).begin().end().bytes,
                 std::string("header at byte 0: length 384 does not fit 2 layers") + kAdvice);
}

TEST(KvcVersions, UnknownRecordsAreSkipped) {
  for (const std::size_t size : {0u, 1u, 64u, 1000u}) {
    const Bytes bytes = raw()
                            .meta()
                            .prompt()
                            .unknown(size)
                            .prefill()
                            .unknown(size)
                            .prefill_end()
                            .unknown(size)
                            .step(0)
                            .step(1)
                            .unknown(size)
                            .summary()
                            .unknown(size)
                            .trailer()
                            .bytes;
    const Recording recording = open_bytes(bytes);
    EXPECT_TRUE(recording.complete());
    expect_sample(recording, 2);
    EXPECT_NO_THROW(recording.verify());
    // Without its trailer the same file is walked record by record.
    const Recording cut = open_bytes({bytes.begin(), bytes.end() - 1});
    expect_sample(cut, 2);
    EXPECT_NO_THROW(cut.verify());
  }
}

TEST(KvcVersions, UnknownRecordInsideARunIsDamage) {
  expect_damage(raw().begin().step(0).unknown(8).step(1).summary().trailer().bytes, "STEP");
  expect_damage(raw().begin().step(0).unknown(8).step(1).bytes, "out of order: STEP records");
  expect_damage(raw().unknown(8).begin().bytes, "META and PROMPT are the first records");
}

TEST(KvcVersions, UnknownCodecIsRefused) {
  const auto pack = [](RecordHeader& record) { record.codec = 1; };
  const Bytes packed_meta =
      raw().text(RecordType::kMeta, "{}", pack).prompt().prefill().prefill_end().end().bytes;
  const Error error = open_error(packed_meta);
  EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
  EXPECT_STREQ(error.what(),
               "x.kvc: META at byte 256 is packed with codec 1, which this kvtool cannot read: "
               "update it");
  const Bytes packed_step = raw().begin().step(0, pack).step(1).summary().trailer().bytes;
  const Recording recording = open_bytes(packed_step);
  EXPECT_EQ(error_of([&] { static_cast<void>(recording.read_step_stats(0)); }).code(),
            ErrorCode::kIncompatible);
  EXPECT_EQ(error_of([&] { recording.verify(); }).code(), ErrorCode::kIncompatible);
}

TEST(KvcHeader, ImpossibleValuesAreRefused) {
  const auto refuses = [](std::size_t at, auto value, const std::string& message) {
    expect_corrupt(raw().patch_header(at, value).begin().end().bytes,
                   "header at byte 0: " + message + kAdvice);
  };
  refuses(12, std::uint32_t{0}, "impossible header length 0");
  refuses(12, std::uint32_t{257}, "impossible header length 257");
  refuses(12, std::uint32_t{(1u << 20) + 64}, "impossible header length 1048640");
  refuses(80, std::uint8_t{0}, "unknown save mode 0");
  refuses(80, std::uint8_t{4}, "unknown save mode 4");
  refuses(81, std::uint8_t{6}, "unknown logits element type");
  refuses(84, std::uint32_t{0}, "impossible vocabulary size 0");
  refuses(84, std::uint32_t{0x80000000}, "impossible vocabulary size 2147483648");
  refuses(88, std::uint32_t{51}, "top-k of 51 is more than the vocabulary or than 1024");
  refuses(96, std::uint64_t{0}, "empty prompt");
  refuses(96, std::uint64_t{(1u << 26) + 1}, "impossible prompt length 67108865");
  refuses(96, ~std::uint64_t{0}, "impossible prompt length 18446744073709551615");
  refuses(104, std::uint64_t{80}, "delta length is 80, the geometry asks for 64");
  refuses(112, std::uint64_t{64}, "step stride is 64, the geometry asks for 192");
  refuses(120, std::uint64_t{0}, "statistics length is 0, the geometry asks for 64");
}

TEST(KvcHeader, ImpossibleLayersAreRefused) {
  constexpr std::size_t kLayer1 = 128 + 32;
  const auto refuses = [](std::size_t at, auto value, const std::string& message) {
    expect_corrupt(raw().patch_header(at, value).begin().end().bytes,
                   "header at byte 0: " + message + kAdvice);
  };
  refuses(92, std::uint32_t{0}, "length 256 does not fit 0 layers");
  refuses(92, std::uint32_t{4097}, "length 256 does not fit 4097 layers");
  refuses(92, ~std::uint32_t{0}, "length 256 does not fit 4294967295 layers");
  refuses(kLayer1, std::uint8_t{0}, "layer 1: unknown element type");
  refuses(kLayer1 + 1, std::uint8_t{6}, "layer 1: unknown element type");
  refuses(kLayer1 + 4, std::uint32_t{0}, "layer 1: number of KV heads is 0, allowed are 1 to 4096");
  refuses(kLayer1 + 4, std::uint32_t{4097},
          "layer 1: number of KV heads is 4097, allowed are 1 to 4096");
  refuses(kLayer1 + 8, std::uint32_t{65537},
          "layer 1: key dimension is 65537, allowed are 1 to 65536");
  refuses(kLayer1 + 12, std::uint32_t{0}, "layer 1: value dimension is 0, allowed are 1 to 65536");
  refuses(kLayer1 + 16, std::uint64_t{16}, "key row offset is 16, the geometry asks for 32");
  refuses(kLayer1 + 24, std::uint64_t{1}, "value row offset is 1, the geometry asks for 48");
}

TEST(KvcHeader, LayersOfALaterMinorVersionMustFitToo) {
  expect_corrupt(raw().grow_header(64, 1).patch_header(92, std::uint32_t{4000}).begin().end().bytes,
                 std::string("header at byte 0: length 320 does not fit 4000 layers") + kAdvice);
}

}  // namespace
}  // namespace kvtool::format
