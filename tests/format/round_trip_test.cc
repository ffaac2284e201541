#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "sample.h"

namespace kvtool::format {
namespace {

using testing::HasSubstr;

constexpr std::array kModes = {SaveMode::kDelta, SaveMode::kPrefillOnly, SaveMode::kFinalOnly};

class EverySaveMode : public testing::TestWithParam<SaveMode> {};

INSTANTIATE_TEST_SUITE_P(KvcRecording, EverySaveMode, testing::ValuesIn(kModes),
                         [](const auto& mode) { return std::string(save_mode_name(mode.param)); });

TEST_P(EverySaveMode, RoundTripsZeroOneAndManySteps) {
  for (const std::uint64_t steps : {0u, 1u, 5u}) {
    const Recording recording = open_bytes(sample_bytes(GetParam(), steps));
    EXPECT_TRUE(recording.complete());
    EXPECT_EQ(recording.truncation(), "");
    EXPECT_EQ(recording.summary(), sample_summary(steps));
    EXPECT_EQ(recording.header().geometry, sample_geometry());
    expect_sample(recording, steps);
    EXPECT_NO_THROW(recording.verify());
  }
}

TEST_P(EverySaveMode, KeepsEveryHeaderField) {
  const RecordingHeader expected = sample_header(GetParam());
  const Recording recording = open_bytes(sample_bytes(GetParam(), 1));
  const RecordingHeader& found = recording.header();
  EXPECT_EQ(found.uuid, expected.uuid);
  EXPECT_EQ(found.model_sha256, expected.model_sha256);
  EXPECT_EQ(found.save_mode, expected.save_mode);
  EXPECT_EQ(found.logits_dtype, expected.logits_dtype);
  EXPECT_EQ(found.vocab_size, expected.vocab_size);
  EXPECT_EQ(found.top_k, expected.top_k);
  EXPECT_EQ(found.prompt_length, expected.prompt_length);
  EXPECT_EQ(found.geometry, expected.geometry);
}

TEST_P(EverySaveMode, WorksWithoutTopK) {
  MemoryFileSystem files;
  RecordingHeader header = sample_header(GetParam());
  header.top_k = 0;
  write_sample(files, "x.kvc", header, 2);
  expect_sample(Recording::open("x.kvc", {.file_system = &files}), 2);
}

TEST_P(EverySaveMode, WorksWithTheLargestTopK) {
  MemoryFileSystem files;
  RecordingHeader header = sample_header(GetParam());
  header.vocab_size = kMaxTopK;
  header.top_k = kMaxTopK;
  write_sample(files, "x.kvc", header, 2);
  const Recording recording = Recording::open("x.kvc", {.file_system = &files});
  expect_sample(recording, 2);
  EXPECT_NO_THROW(recording.verify());
}

TEST_P(EverySaveMode, CountsCachedPositions) {
  const Recording recording = open_bytes(sample_bytes(GetParam(), 4));
  EXPECT_EQ(recording.num_cached_positions(), GetParam() == SaveMode::kPrefillOnly ? 3u : 7u);
  EXPECT_EQ(recording.has_deltas(), GetParam() != SaveMode::kPrefillOnly);
}

TEST_P(EverySaveMode, RefusesWhatItDoesNotHold) {
  const Recording recording = open_bytes(sample_bytes(GetParam(), 2));
  EXPECT_THROW(static_cast<void>(recording.read_step_stats(2)), Error);
  Bytes small(1);
  EXPECT_THROW(recording.read_delta(0, small), Error);
  Bytes delta(recording.geometry().delta_bytes());
  EXPECT_THROW(recording.read_delta(2, delta), Error);
  EXPECT_THROW(recording.read_layer(2, 0, {}, {}), Error);
  EXPECT_THROW(recording.read_layer(0, 1, small, small), Error);
  const std::uint64_t more = recording.num_cached_positions() + 1;
  Bytes key(16 * more);
  Bytes value(16 * more);
  EXPECT_THROW(recording.read_layer(0, more, key, value), Error);
}

TEST_P(EverySaveMode, ReadsFromManyThreads) {
  const Recording recording = open_bytes(sample_bytes(GetParam(), 6));
  std::atomic<int> good = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      expect_sample(recording, 6);
      recording.verify();
      ++good;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 4);
}

TEST(KvcRecording, PrefillOnlySaysWhyItHasNoDelta) {
  const Recording recording = open_bytes(sample_bytes(SaveMode::kPrefillOnly, 2));
  Bytes delta(recording.geometry().delta_bytes());
  try {
    recording.read_delta(0, delta);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kMisuse);
    EXPECT_STREQ(error.what(),
                 "x.kvc: holds no K/V of single steps: it is a prefill_only recording");
  }
}

TEST(KvcRecording, SurvivesBeingMoved) {
  Recording first = open_bytes(sample_bytes(SaveMode::kDelta, 2));
  Recording second = std::move(first);
  first = std::move(second);
  expect_sample(first, 2);
}

TEST(KvcRecording, MetaTextWithBrokenUtf8IsMended) {
  MemoryFileSystem files;
  const RecordingHeader header = sample_header(SaveMode::kDelta);
  {
    const RecordingWriter writer("x.kvc", header, {{"prompt_text", "cut \xe2\x82"}},
                                 sample_prompt(header), {.file_system = &files});
  }
  const Recording recording = Recording::open("x.kvc.partial", {.file_system = &files});
  EXPECT_EQ(recording.meta().at("prompt_text"), "cut \xef\xbf\xbd");
}

// A realistic model, SmolLM2-135M's shape, in a realistic length.
RecordingHeader realistic_header() {
  RecordingHeader header = sample_header(SaveMode::kDelta);
  header.vocab_size = 49152;
  header.top_k = 20;
  header.prompt_length = 128;
  header.geometry =
      Geometry(std::vector<LayerGeometry>(30, {DType::kBFloat16, DType::kBFloat16, 3, 64, 64}));
  return header;
}

TEST(KvcRecording, FileOverheadStaysBelowThreePercent) {
  MemoryFileSystem files;
  const RecordingHeader header = realistic_header();
  write_sample(files, "x.kvc", header, 64);
  const double kv_bytes = static_cast<double>(header.geometry.position_bytes()) * (128 + 64);
  const double overhead = static_cast<double>(files.bytes("x.kvc").size()) / kv_bytes;
  RecordProperty("overhead", std::to_string(overhead));
  EXPECT_LE(overhead, 1.03);
}

TEST(KvcReader, OpensACompleteFileWithoutReadingItsCache) {
  MemoryFileSystem files;
  write_sample(files, "x.kvc", realistic_header(), 64);
  const Recording recording = Recording::open("x.kvc", {.file_system = &files});
  EXPECT_LT(files.bytes_read(), 16u * 1024);
  static_cast<void>(recording.read_tokens());
  EXPECT_LT(files.bytes_read(), 64u * 1024);
}

TEST(KvcReader, ReadsAFinalStateOnceUntilItsBuffersAreReleased) {
  MemoryFileSystem files;
  RecordingHeader header = realistic_header();
  header.save_mode = SaveMode::kFinalOnly;
  write_sample(files, "x.kvc", header, 8);
  const Recording recording = Recording::open("x.kvc", {.file_system = &files});
  const std::uint64_t opened = files.bytes_read();
  const auto read_all = [&] {
    for (std::uint32_t layer = 0; layer < header.geometry.num_layers(); ++layer) {
      Bytes key(header.geometry.layer(layer).key_bytes() * header.prompt_length);
      Bytes value(header.geometry.layer(layer).value_bytes() * header.prompt_length);
      recording.read_layer(layer, header.prompt_length, key, value);
      EXPECT_EQ(key, sample_key(header.geometry, layer, header.prompt_length));
    }
    Bytes delta(header.geometry.delta_bytes());
    for (std::uint64_t step = 0; step < 8; ++step) recording.read_delta(step, delta);
  };
  const std::uint64_t state = header.geometry.position_bytes() * (header.prompt_length + 8);
  read_all();
  read_all();
  EXPECT_LT(files.bytes_read() - opened, state + state / 8);
  recording.release_buffers();
  read_all();
  EXPECT_GT(files.bytes_read() - opened, 2 * state);
}

TEST(KvcReader, ReadsALayerOfVerifiedStepsWithoutReadingThemAgain) {
  MemoryFileSystem files;
  const RecordingHeader header = realistic_header();
  write_sample(files, "x.kvc", header, 64);
  const Recording recording = Recording::open("x.kvc", {.file_system = &files});
  const LayerGeometry& shape = header.geometry.layer(0);
  Bytes key(shape.key_bytes() * 192);
  Bytes value(shape.value_bytes() * 192);
  recording.read_layer(0, 192, key, value);
  const std::uint64_t first = files.bytes_read();
  EXPECT_GT(first, 64 * header.geometry.delta_bytes());
  recording.read_layer(1, 192, key, value);
  EXPECT_LT(files.bytes_read() - first, 8 * header.geometry.delta_bytes());
  EXPECT_EQ(key, sample_key(header.geometry, 1, 192));
  EXPECT_EQ(value, sample_value(header.geometry, 1, 192));
}

TEST(Uuid, IsRandomAndMarkedAsVersionFour) {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const std::string text = to_string(random_uuid());
    EXPECT_TRUE(seen.insert(text).second);
    ASSERT_EQ(text.size(), 36u);
    EXPECT_EQ(text[14], '4');
    EXPECT_THAT("89ab", HasSubstr(text.substr(19, 1)));
  }
}

TEST(Uuid, PrintsInGroups) {
  EXPECT_EQ(to_string(sample_header(SaveMode::kDelta).uuid),
            "10111213-1415-1617-1819-1a1b1c1d1e1f");
}

TEST(Sha256, ParsesWhatItPrintsAndNothingElse) {
  const Sha256 digest = sample_header(SaveMode::kDelta).model_sha256;
  const std::string text = to_hex(digest);
  EXPECT_EQ(text.substr(0, 6), "a0a1a2");
  EXPECT_EQ(parse_sha256(text), digest);
  EXPECT_EQ(parse_sha256(text.substr(1)), std::nullopt);
  EXPECT_EQ(parse_sha256(text + "0"), std::nullopt);
  EXPECT_EQ(parse_sha256("g" + text.substr(1)), std::nullopt);
}

TEST(SaveModeNames, ParseBack) {
  for (const SaveMode mode : kModes) EXPECT_EQ(parse_save_mode(save_mode_name(mode)), mode);
  EXPECT_EQ(parse_save_mode("Delta"), std::nullopt);
}

TEST(GeometryTest, PlacesRowsAtMultiplesOfSixteen) {
  const Geometry geometry = sample_geometry();
  EXPECT_EQ(geometry.row_offset(0).key, 0u);
  EXPECT_EQ(geometry.row_offset(0).value, 16u);
  EXPECT_EQ(geometry.row_offset(1).key, 32u);
  EXPECT_EQ(geometry.row_offset(1).value, 48u);
  EXPECT_EQ(geometry.delta_bytes(), 64u);
  EXPECT_EQ(geometry.position_bytes(), 16u + 16u + 12u + 5u);
}

TEST(GeometryTest, RefusesSizesBeyondTheCaps) {
  const LayerGeometry good = sample_geometry().layer(0);
  const auto refuses = [&](auto change) {
    LayerGeometry layer = good;
    change(layer);
    EXPECT_THROW(Geometry({layer}), Error);
  };
  EXPECT_NO_THROW(Geometry({good}));
  refuses([](LayerGeometry& l) { l.num_kv_heads = 0; });
  refuses([](LayerGeometry& l) { l.num_kv_heads = kMaxHeads + 1; });
  refuses([](LayerGeometry& l) { l.key_dim = kMaxHeadDim + 1; });
  refuses([](LayerGeometry& l) { l.value_dim = 0; });
  refuses([](LayerGeometry& l) { l.key_dtype = static_cast<DType>(9); });
  EXPECT_THROW(Geometry(std::vector<LayerGeometry>(kMaxLayers + 1, good)), Error);
}

TEST(GeometryTest, NamesTheFirstDifference) {
  const Geometry a = sample_geometry();
  const auto with = [&](auto change) {
    std::vector<LayerGeometry> layers = a.layers();
    change(layers[1]);
    return describe_difference(a, Geometry(layers));
  };
  EXPECT_EQ(describe_difference(a, a), "");
  EXPECT_EQ(describe_difference(a, Geometry({a.layer(0)})), "2 layers against 1");
  EXPECT_EQ(with([](LayerGeometry& l) { l.num_kv_heads = 8; }), "layer 1: 1 KV heads against 8");
  EXPECT_EQ(with([](LayerGeometry& l) { l.key_dim = 4; }), "layer 1: 3 key dimensions against 4");
  EXPECT_EQ(with([](LayerGeometry& l) { l.value_dim = 4; }),
            "layer 1: 5 value dimensions against 4");
  EXPECT_EQ(with([](LayerGeometry& l) { l.key_dtype = DType::kFloat16; }),
            "layer 1: float32 keys against float16");
  EXPECT_EQ(with([](LayerGeometry& l) { l.value_dtype = DType::kFloat16; }),
            "layer 1: float8_e4m3fn values against float16");
}

}  // namespace
}  // namespace kvtool::format
