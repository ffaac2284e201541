// Files that no kvtool wrote: refused with a message that says why, before
// anything is allocated for them.
#include <functional>
#include <random>
#include <string>

#include "damage_expectations.h"

namespace kvtool::format {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

Bytes good_file() { return raw().begin().step(0).step(1).checksums(2).summary().trailer().bytes; }

RecordingHeader largest_header() {
  RecordingHeader header = sample_header(SaveMode::kDelta);
  header.geometry = Geometry(std::vector<LayerGeometry>(
      kMaxLayers, {DType::kFloat32, DType::kFloat32, kMaxHeads, kMaxHeadDim, kMaxHeadDim}));
  header.prompt_length = kMaxPromptTokens;
  return header;
}

TEST(KvcHostileFile, TinyFileMayClaimTheLargestGeometryButGetsNoMemory) {
  EXPECT_THAT(open_error(RawRecording(largest_header()).bytes).what(),
              HasSubstr("ends within its META"));
  const auto claim_prompt = [](RecordHeader& record) {
    record.stored_bytes = record.raw_bytes = 4 * kMaxPromptTokens;
  };
  const Bytes prompt =
      RawRecording(largest_header()).meta().record(RecordType::kPrompt, 0, {}, claim_prompt).bytes;
  EXPECT_THAT(open_error(prompt).what(), HasSubstr("ends within its PROMPT"));
}

TEST(KvcHostileFile, TinyFileWithLargestLayersIsTruncatedOrDamaged) {
  RecordingHeader header = largest_header();
  header.prompt_length = 1;
  const auto claim = [&](RecordHeader& record) {
    record.stored_bytes = record.raw_bytes = 2 * header.geometry.layer(0).key_bytes();
  };
  const Bytes cut =
      RawRecording(header).meta().prompt().record(RecordType::kPrefill, 0, {}, claim).bytes;
  EXPECT_FALSE(open_bytes(cut).has_prefill());
  const Bytes trailed = RawRecording(header)
                            .meta()
                            .prompt()
                            .record(RecordType::kPrefill, 0, {}, claim)
                            .prefill_end()
                            .summary()
                            .trailer()
                            .bytes;
  EXPECT_THAT(open_error(trailed).what(), HasSubstr("it places PREFILL at byte"));
}

TEST(KvcHostileFile, TrailerMayNotPlaceRecordsOutsideTheirNeighbours) {
  const auto with = [](const std::function<void(Trailer&)>& tweak) {
    return raw().begin().step(0).step(1).summary().trailer(tweak).bytes;
  };
  EXPECT_NO_THROW(static_cast<void>(open_bytes(with([](Trailer&) {}))));
  for (std::uint64_t Trailer::* field :
       {&Trailer::file_bytes, &Trailer::num_steps, &Trailer::first_prefill, &Trailer::prefill_end,
        &Trailer::first_step, &Trailer::first_final, &Trailer::summary}) {
    for (const std::uint64_t value :
         {std::uint64_t{1}, std::uint64_t{64}, std::uint64_t{1} << 40, std::uint64_t{1} << 62,
          (std::uint64_t{1} << 63) + 64, ~std::uint64_t{0}, ~std::uint64_t{63}}) {
      expect_damage(with([&](Trailer& t) { t.*field = value; }), "TRAILER at byte");
    }
  }
  expect_damage(with([](Trailer& t) { --t.num_records; }), "contradict the records");
  expect_damage(with([](Trailer& t) { --t.num_steps; }), "contradict the records");
  expect_damage(with([](Trailer& t) { t.summary -= 64; }), "SUMMARY");
  expect_damage(with([](Trailer& t) { t.first_step = 0; }), "it places STEP at byte 0");
}

TEST(KvcHostileFile, TrailerMayNotSkipAStep) {
  const Bytes bytes = raw()
                          .begin()
                          .step(0)
                          .step(1)
                          .summary()
                          .trailer([](Trailer& t) {
                            t.first_step += 192;
                            t.num_steps = 1;
                          })
                          .bytes;
  const Recording recording = open_bytes(bytes);
  EXPECT_THAT(error_of([&] { static_cast<void>(recording.read_step_stats(0)); }).what(),
              StartsWith("x.kvc: at byte 1216: found STEP 1 where STEP 0 should be"));
}

TEST(KvcHostileFile, TrailerOfAnotherLengthIsNamed) {
  const auto lengthen = [](Trailer& t) { ++t.file_bytes; };
  const Bytes bytes = raw().begin().step(0).summary().trailer(lengthen).bytes;
  expect_corrupt(bytes,
                 "TRAILER at byte 1344: it says that the file has 1473 bytes, but it has "
                 "1472" +
                     std::string(kAdvice));
}

TEST(KvcHostileFile, TrailerWithAFlippedByteIsNamed) {
  Bytes bytes = raw().begin().step(0).summary().trailer().bytes;
  bytes.back() ^= std::byte{1};
  expect_corrupt(bytes,
                 "TRAILER at byte 1344: the payload's checksum is wrong" + std::string(kAdvice));
}

TEST(KvcHostileFile, RecordsBehindATrailerMayNotRunPastTheEnd) {
  const auto claim = [](RecordHeader& record) {
    record.stored_bytes = record.raw_bytes = 16u << 20;
  };
  const Bytes meta =
      raw().text(RecordType::kMeta, "{}", claim).prompt().prefill().prefill_end().end().bytes;
  expect_corrupt(meta, "META at byte 256: payload of 16777216 bytes runs past the end of the file" +
                           std::string(kAdvice));
  const Bytes prompt = raw().patch_header(96, std::uint64_t{1} << 26).begin().end().bytes;
  expect_corrupt(prompt,
                 "at byte 384: PROMPT runs past the end of the file" + std::string(kAdvice));
}

// A file with a hole of zeros in its middle, as large as it likes to be.
class HoleyFile final : public RandomAccessFile {
 public:
  HoleyFile(Bytes head, Bytes tail, std::uint64_t size)
      : head_(std::move(head)), tail_(std::move(tail)), size_(size) {}
  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] const std::filesystem::path& path() const override { return path_; }
  [[nodiscard]] std::size_t read(std::uint64_t offset, std::span<std::byte> target) const override {
    const std::uint64_t tail_at = size_ - tail_.size();
    for (std::size_t i = 0; i < target.size(); ++i) {
      const std::uint64_t at = offset + i;
      if (at >= size_) return i;
      target[i] = at < head_.size() ? head_[at] : at < tail_at ? std::byte{0} : tail_[at - tail_at];
    }
    return target.size();
  }

 private:
  std::filesystem::path path_ = "x.kvc";
  Bytes head_;
  Bytes tail_;
  std::uint64_t size_;
};

class HoleyFileSystem final : public FileSystem {
 public:
  std::unique_ptr<HoleyFile> file;
  std::unique_ptr<RandomAccessFile> open(const std::filesystem::path&) override {
    return std::move(file);
  }
  std::unique_ptr<WritableFile> create(const std::filesystem::path&) override { return nullptr; }
  void rename(const std::filesystem::path&, const std::filesystem::path&) override {}
  void remove(const std::filesystem::path&) override {}
};

// A recording whose steps are a hole: right at both ends, nothing in between.
std::unique_ptr<HoleyFile> with_absent_steps(std::uint64_t steps) {
  const RecordingHeader header = sample_header(SaveMode::kDelta);
  RawRecording recording(header);
  recording.begin();
  Trailer trailer = recording.found;
  const std::uint64_t head_bytes = recording.bytes.size();
  trailer.num_steps = steps;
  trailer.first_step = head_bytes;
  trailer.summary = head_bytes + steps * step_stride_bytes(header);
  trailer.file_bytes = trailer.summary + 128 + kTrailerBytes;
  trailer.num_records = steps + 7;
  Bytes tail(128 + kTrailerBytes);
  const auto place = [&](std::size_t at, RecordType type, std::span<const std::byte> payload) {
    RecordHeader record;
    record.type = type;
    record.offset = trailer.summary + at;
    record.stored_bytes = record.raw_bytes = payload.size();
    record.uuid_low = uuid_low_half(header.uuid);
    record.payload_checksum = checksum(payload);
    encode_record_header(record, std::span(tail).subspan(at, kRecordHeaderBytes));
    copy_bytes(payload, std::span(tail).subspan(at + kRecordHeaderBytes));
  };
  place(0, RecordType::kSummary, std::as_bytes(std::span(std::string_view("{}"))));
  Bytes payload(kTrailerPayloadBytes);
  encode_trailer(trailer, payload);
  place(128, RecordType::kTrailer, payload);
  return std::make_unique<HoleyFile>(recording.bytes, tail, trailer.file_bytes);
}

TEST(KvcHostileFile, CountOfStepsIsCappedWhateverTheFilesLength) {
  HoleyFileSystem files;
  files.file = with_absent_steps(kMaxSteps);
  const Recording recording = Recording::open("x.kvc", {.file_system = &files});
  EXPECT_EQ(recording.num_steps(), kMaxSteps);
  EXPECT_THAT(error_of([&] { static_cast<void>(recording.read_step_stats(7)); }).what(),
              HasSubstr("STEP 7: the record header's checksum is wrong"));
  files.file = with_absent_steps(kMaxSteps + 1);
  const Error error =
      error_of([&] { static_cast<void>(Recording::open("x.kvc", {.file_system = &files})); });
  EXPECT_THAT(error.what(), HasSubstr("it counts 67108865 steps, at most 67108864 are allowed"));
}

TEST(KvcHostileFile, JsonIsBounded) {
  const auto with_meta = [](const std::string& json) {
    return raw().text(RecordType::kMeta, json).prompt().prefill().prefill_end().end().bytes;
  };
  const auto nested = [](int depth) {
    return "{\"a\":" + std::string(static_cast<std::size_t>(depth - 1), '[') +
           std::string(static_cast<std::size_t>(depth - 1), ']') + "}";
  };
  EXPECT_NO_THROW(static_cast<void>(open_bytes(with_meta(nested(16)))));
  EXPECT_THAT(open_error(with_meta(nested(17))).what(), HasSubstr("nested deeper than 16"));
  EXPECT_THAT(open_error(with_meta(nested(1'000'000))).what(), HasSubstr("nested deeper than 16"));
  EXPECT_THAT(open_error(with_meta("[1]")).what(), HasSubstr("JSON is not an object"));
  EXPECT_THAT(open_error(with_meta("{\"a\":")).what(), HasSubstr("META at byte 256: invalid JSON"));
  EXPECT_THAT(open_error(with_meta("")).what(), HasSubstr("invalid JSON"));
  EXPECT_THAT(open_error(with_meta("{\"a\":\"\xff\"}")).what(), HasSubstr("invalid JSON"));
  std::string values = "{\"a\":[0";
  for (int i = 0; i < 131'070; ++i) values += ",0";
  EXPECT_THAT(open_error(with_meta(values + "]}")).what(), HasSubstr("more than 131072 values"));
  EXPECT_THAT(open_error(with_meta("{}" + std::string(16 << 20, ' '))).what(),
              HasSubstr("JSON of 16777218 bytes, at most 16777216 are allowed"));
}

// The parser's callback would make this take the square of its length.
TEST(KvcHostileFile, JsonOfManyObjectsIsReadInOnePass) {
  std::string objects = "{\"a\":[{}";
  for (int i = 0; i < 131'069; ++i) objects += ",{}";
  const Bytes bytes =
      raw().text(RecordType::kMeta, objects + "]}").prompt().prefill().prefill_end().end().bytes;
  EXPECT_EQ(open_bytes(bytes).meta().at("a").size(), 131'070u);
}

TEST(KvcHostileFile, TokensOutsideTheVocabularyAreDamage) {
  for (const std::int32_t token : {50, -2, 0x7fffffff}) {
    const std::string outside =
        std::to_string(token) + " is outside the vocabulary of 50" + kAdvice;
    const std::string at_position = "token " + std::to_string(token) +
                                    " at position 1 is outside the vocabulary of 50" + kAdvice;
    expect_corrupt(raw().meta().prompt({0, token, 1}).prefill().prefill_end().end().bytes,
                   "PROMPT at byte 384: " + at_position);
    const RecordingHeader header = sample_header(SaveMode::kDelta);
    const auto steps_with = [&](auto change) {
      StepStats stats = sample_stats(header, 1);
      change(stats);
      return raw().begin().step(0).step(1, stats).summary().trailer().bytes;
    };
    for (const Bytes& bytes : {steps_with([&](StepStats& s) { s.token = token; }),
                               steps_with([&](StepStats& s) { s.input_token = token; }),
                               steps_with([&](StepStats& s) { s.top_ids[1] = token; })}) {
      expect_damage(bytes, outside);
      const Recording recording = open_bytes(bytes);
      EXPECT_THAT(error_of([&] { static_cast<void>(recording.read_step_stats(1)); }).what(),
                  HasSubstr(outside));
      EXPECT_THAT(error_of([&] { static_cast<void>(recording.read_tokens()); }).what(),
                  HasSubstr("STEP 1"));
    }
    StepStats prefill = sample_prefill_stats(header);
    prefill.token = token;
    EXPECT_THAT(open_error(raw().meta().prompt().prefill().prefill_end(prefill).end().bytes).what(),
                HasSubstr("PREFILL_END"));
  }
  StepStats prefill = sample_prefill_stats(sample_header(SaveMode::kDelta));
  prefill.input_token = 0;
  EXPECT_THAT(open_error(raw().meta().prompt().prefill().prefill_end(prefill).end().bytes).what(),
              HasSubstr("input token 0, the prefill has -1"));
}

TEST(KvcHostileFile, StatisticsOfAnotherTopKAreDamage) {
  StepStats stats = sample_stats(sample_header(SaveMode::kDelta), 0);
  stats.top_ids.pop_back();
  stats.top_logits.pop_back();
  expect_damage(raw().begin().step(0, stats).step(1).summary().trailer().bytes,
                "STEP 0 at byte 1024: the statistics' checksum or top-k is wrong");
}

TEST(KvcHostileFile, RecordsOfTheWrongLengthAreDamage) {
  expect_damage(raw().meta().prompt({1, 2}).prefill().prefill_end().end().bytes,
                "PROMPT at byte 384: payload of 8 bytes, expected 12");
  const auto lengthen = [](RecordHeader& record) { record.raw_bytes += 1; };
  expect_damage(raw().begin().step(0, lengthen).step(1).summary().trailer().bytes,
                "unpacked payload with two lengths, 128 and 129");
  const auto huge = [](RecordHeader& record) {
    record.stored_bytes = record.raw_bytes = ~std::uint64_t{0};
  };
  expect_damage(raw().begin().step(0, huge).step(1).summary().trailer().bytes,
                "payload of 18446744073709551615 bytes, expected 128");
  EXPECT_THAT(open_error(raw().text(RecordType::kMeta, "{}", huge).prompt().bytes).what(),
              HasSubstr("at most 16777216"));
}

TEST(KvcHostileFile, RecordsOutOfOrderAreDamage) {
  const auto cut = [](RawRecording& recording) { return recording.bytes; };
  expect_damage(cut(raw().prompt().meta()), "PROMPT is the second record");
  expect_damage(cut(raw().meta().meta()), "META is the first record");
  expect_damage(cut(raw().meta().prompt().prompt()), "PROMPT is the second record");
  expect_damage(cut(raw().meta().prompt().state(RecordType::kPrefill, 1, 3)),
                "out of order: PREFILL");
  expect_damage(cut(raw().meta().prompt().prefill_end()), "out of order: PREFILL_END");
  expect_damage(cut(raw().begin().prefill_end()), "out of order: PREFILL_END");
  expect_damage(cut(raw().meta().prompt().prefill().step(0)), "out of order: STEP");
  expect_damage(cut(raw().begin().step(1)), "out of order: STEP");
  expect_damage(cut(raw().begin().step(0).step(0)), "out of order: STEP");
  expect_damage(cut(raw().begin().state(RecordType::kFinal, 0, 3)), "out of order: FINAL");
  expect_damage(cut(raw().begin().summary().step(0)), "out of order: STEP");
  expect_damage(cut(raw().begin().summary().summary()), "out of order: SUMMARY");
  expect_damage(cut(raw().begin().step(0).trailer()), "TRAILER");
  RawRecording final_only = raw(SaveMode::kFinalOnly);
  expect_damage(cut(final_only.meta().prompt().prefill_end().summary()), "out of order: SUMMARY");
}

TEST(KvcHostileFile, WrongSequenceNumberIsDamage) {
  const auto skip = [](RecordHeader& record) { ++record.sequence; };
  expect_damage(raw().begin().step(0, skip).step(1).summary().trailer().bytes,
                "STEP 0 at byte 1024: sequence number 6, expected 5");
}

TEST(KvcHostileFile, SummaryIsCheckedLikeMeta) {
  EXPECT_THAT(open_error(raw().begin().text(RecordType::kSummary, "[]").trailer().bytes).what(),
              HasSubstr("SUMMARY at byte 1024: JSON is not an object"));
}

// Whatever is done to a file, reading it ends in a value or in an Error.
void read_everything(const Bytes& bytes) {
  try {
    const Recording recording = open_bytes(bytes);
    static_cast<void>(recording.read_tokens());
    Bytes delta(recording.geometry().delta_bytes());
    for (std::uint64_t i = 0; recording.has_deltas() && i < recording.num_steps(); ++i) {
      recording.read_delta(i, delta);
    }
    const std::uint64_t positions = recording.num_cached_positions();
    for (std::uint32_t i = 0; i < recording.geometry().num_layers(); ++i) {
      Bytes key(recording.geometry().layer(i).key_bytes() * positions);
      Bytes value(recording.geometry().layer(i).value_bytes() * positions);
      recording.read_layer(i, positions, key, value);
    }
    recording.verify();
  } catch (const Error& error) {
    ASSERT_THAT(error.code(), testing::AnyOf(ErrorCode::kCorrupt, ErrorCode::kIncompatible))
        << error.what();
    ASSERT_THAT(error.what(), StartsWith("x.kvc: "));
  }
}

// Changes a field and repairs every checksum that covers it.
void mutate_sealed(Bytes& bytes, std::mt19937& random) {
  const std::span<std::byte> all(bytes);
  const auto header_bytes = encode_header(sample_header(SaveMode::kDelta)).size();
  const std::size_t cells = bytes.size() / kRecordAlignment;
  const std::size_t at = random() % cells * kRecordAlignment;
  const std::size_t field = random() % 8 * 8;
  const std::uint64_t value = random() % 3 == 0
                                  ? ~std::uint64_t{0} >> (random() % 64)
                                  : load<std::uint64_t>(all, at + field) + random() % 5 - 2;
  store(all, at + field, value);
  if (at < header_bytes) {
    store(all, header_bytes - 8, checksum(all.first(header_bytes - 8)));
  } else {
    store(all, at + 56, checksum(all.subspan(at, 56)));
  }
}

TEST(ExhaustiveKvcHostileFile, RandomSealedChangesEndInAValueOrAnError) {
  std::mt19937 random(20240607);
  for (const SaveMode mode : {SaveMode::kDelta, SaveMode::kPrefillOnly, SaveMode::kFinalOnly}) {
    const Bytes whole = sample_bytes(mode, 2);
    for (int round = 0; round < 3000; ++round) {
      Bytes bytes = whole;
      for (std::uint32_t i = 0; i <= random() % 3; ++i) mutate_sealed(bytes, random);
      if (random() % 4 == 0) bytes.resize(random() % bytes.size());
      read_everything(bytes);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(KvcHostileFile, DamagedTruncatedFileEndsInAPrefixOrAnError) {
  SampleOffsets offsets;
  const Bytes whole = sample_bytes(SaveMode::kDelta, 3, &offsets);
  for (std::size_t i = 0; i < offsets.step_ends[2]; ++i) {
    Bytes bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(offsets.step_ends[2]));
    bytes[i] ^= std::byte{4};
    read_everything(bytes);
    if (HasFatalFailure()) return;
  }
}

TEST(KvcHostileFile, AssemblerMakesWhatTheWriterMakes) {
  EXPECT_EQ(good_file(), sample_bytes(SaveMode::kDelta, 2));
}

}  // namespace
}  // namespace kvtool::format
