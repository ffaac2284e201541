// Packing gives back every bit, replaces nothing that was not proven, and packed
// recordings read like others.
#include "kvtool/format/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "format/packed/packed_file.h"
#include "raw_recording.h"
#include "sample.h"
#include "support/error_of.h"

namespace kvtool::format {
namespace {

using testing::HasSubstr;

constexpr const char* kName = "x.kvc";

Bytes random_bytes(std::mt19937& random, std::size_t count, unsigned values) {
  Bytes bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() % values);
  return bytes;
}

RecordingHeader random_header(std::mt19937& random) {
  const auto below = [&](std::uint32_t limit) {
    return static_cast<std::uint32_t>(random()) % limit;
  };
  const auto dtype = [&] { return static_cast<DType>(1 + below(5)); };
  std::vector<LayerGeometry> layers(1 + below(4));
  for (LayerGeometry& layer : layers) {
    layer = {dtype(), dtype(), 1 + below(3), 1 + below(40), 1 + below(40)};
  }
  RecordingHeader header = sample_header(static_cast<SaveMode>(1 + below(3)));
  header.geometry = Geometry(layers);
  header.prompt_length = 1 + below(20);
  header.top_k = below(5);
  return header;
}

// K and V of few or all byte values: planes that pay and planes that do not.
void write_random(FileSystem& files, const RecordingHeader& header, std::uint64_t steps,
                  std::mt19937& random) {
  RecordingWriter writer(kName, header, sample_meta(), sample_prompt(header),
                         {.file_system = &files});
  const unsigned values = random() % 2 == 0 ? 5 : 256;
  const Geometry& geometry = header.geometry;
  const auto key = [&](std::uint32_t layer, std::uint64_t positions) {
    return random_bytes(random, geometry.layer(layer).key_bytes() * positions, values);
  };
  const auto value = [&](std::uint32_t layer, std::uint64_t positions) {
    return random_bytes(random, geometry.layer(layer).value_bytes() * positions, values);
  };
  const bool finals = header.save_mode == SaveMode::kFinalOnly;
  for (std::uint32_t i = 0; !finals && i < geometry.num_layers(); ++i) {
    writer.write_prefill_layer(i, key(i, header.prompt_length), value(i, header.prompt_length));
  }
  writer.write_prefill_end(sample_prefill_stats(header));
  for (std::uint64_t step = 0; step < steps; ++step) {
    const bool delta = header.save_mode == SaveMode::kDelta;
    writer.write_step(sample_stats(header, step),
                      random_bytes(random, delta ? geometry.delta_bytes() : 0, values));
  }
  for (std::uint32_t i = 0; finals && i < geometry.num_layers(); ++i) {
    writer.write_final_layer(i, key(i, header.prompt_length + steps),
                             value(i, header.prompt_length + steps));
  }
  writer.finish(sample_summary(steps));
}

void expect_same_content(const Recording& packed, const Recording& original) {
  ASSERT_EQ(packed.num_steps(), original.num_steps());
  ASSERT_EQ(packed.summary(), original.summary());
  ASSERT_EQ(packed.read_tokens(), original.read_tokens());
  const Geometry& geometry = original.geometry();
  Bytes delta(geometry.delta_bytes());
  Bytes expected(geometry.delta_bytes());
  for (std::uint64_t step = original.num_steps(); step-- > 0 && original.has_deltas();) {
    ASSERT_EQ(packed.read_step(step, delta), original.read_step(step, expected));
    ASSERT_EQ(delta, expected);
  }
  const std::uint64_t positions = original.num_cached_positions();
  for (std::uint32_t i = 0; i < geometry.num_layers(); ++i) {
    Bytes key(geometry.layer(i).key_bytes() * positions);
    Bytes value(geometry.layer(i).value_bytes() * positions);
    Bytes expected_key(key.size());
    Bytes expected_value(value.size());
    packed.read_layer(i, positions, key, value);
    original.read_layer(i, positions, expected_key, expected_value);
    ASSERT_EQ(key, expected_key);
    ASSERT_EQ(value, expected_value);
  }
}

TEST(Pack, RandomRecordingsComeBackByteForByte) {
  std::mt19937 random(20240607);
  for (int round = 0; round < 150; ++round) {
    SCOPED_TRACE(round);
    MemoryFileSystem files;
    const RecordingHeader header = random_header(random);
    const std::uint64_t steps = round % 5 == 0 ? 0 : random() % 300;
    write_random(files, header, steps, random);
    const Bytes original = files.bytes(kName);

    const PackResult packed =
        pack_recording(kName, {.file_system = &files, .output = "packed.kvc"});
    ASSERT_EQ(packed.original_bytes, original.size());
    ASSERT_EQ(packed.packed_bytes, files.bytes("packed.kvc").size());
    ASSERT_EQ(files.bytes(kName), original);
    const Recording recording = Recording::open("packed.kvc", {.file_system = &files});
    ASSERT_TRUE(recording.packed());
    ASSERT_TRUE(recording.complete());
    ASSERT_NO_THROW(recording.verify());
    expect_same_content(recording, Recording::open(kName, {.file_system = &files}));

    unpack_recording("packed.kvc", {.file_system = &files});
    ASSERT_EQ(files.bytes("packed.kvc"), original);
  }
}

TEST(Pack, StepsInSeveralBlocksWithAPartialLastOne) {
  for (const SaveMode mode : {SaveMode::kDelta, SaveMode::kPrefillOnly, SaveMode::kFinalOnly}) {
    MemoryFileSystem files;
    files.put(kName, sample_bytes(mode, 3001));
    const Bytes original = files.bytes(kName);
    const PackResult result = pack_recording(kName, {.file_system = &files});
    EXPECT_LT(result.packed_bytes, original.size() * 3 / 4);
    const Recording recording = Recording::open(kName, {.file_system = &files});
    EXPECT_EQ(recording.stored_bytes(), result.packed_bytes);
    EXPECT_EQ(recording.file_bytes(), original.size());
    expect_same_content(recording, open_bytes(original));
    unpack_recording(kName, {.file_system = &files});
    EXPECT_EQ(files.bytes(kName), original);
  }
}

TEST(Pack, CarriesUnknownRecordsAndLaterHeadersOver) {
  const Bytes original = RawRecording(sample_header(SaveMode::kDelta))
                             .grow_header(128, 7)
                             .meta()
                             .prompt()
                             .unknown(100)
                             .prefill()
                             .unknown(0)
                             .prefill_end()
                             .unknown(5'000'000)
                             .step(0)
                             .step(1)
                             .unknown(64)
                             .summary()
                             .unknown(1)
                             .trailer()
                             .bytes;
  MemoryFileSystem files;
  files.put(kName, original);
  pack_recording(kName, {.file_system = &files});
  expect_sample(Recording::open(kName, {.file_system = &files}), 2);
  unpack_recording(kName, {.file_system = &files});
  EXPECT_EQ(files.bytes(kName), original);
}

TEST(Pack, StatesLargerThanABlockComeBack) {
  MemoryFileSystem files;
  RecordingHeader header = sample_header(SaveMode::kPrefillOnly);
  header.geometry = Geometry({{DType::kBFloat16, DType::kFloat32, 2, 65, 33}});
  header.prompt_length = 20011;
  std::mt19937 random(3);
  write_random(files, header, 2, random);
  const Bytes original = files.bytes(kName);
  ASSERT_GT(original.size(), 8u << 20);
  pack_recording(kName, {.file_system = &files});
  expect_same_content(Recording::open(kName, {.file_system = &files}), open_bytes(original));
  unpack_recording(kName, {.file_system = &files});
  EXPECT_EQ(files.bytes(kName), original);
}

TEST(Pack, OtherReadersRefuseAPackedFile) {
  MemoryFileSystem files;
  files.put(kName, sample_bytes(SaveMode::kDelta, 3));
  pack_recording(kName, {.file_system = &files});
  const Error error = error_of([&] { static_cast<void>(read_header(*files.open(kName))); });
  EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
  EXPECT_STREQ(error.what(),
               "x.kvc: uses format features that this kvtool does not know (bits 0x1): update "
               "kvtool");
}

TEST(Pack, ARandomStepCostsOneBlock) {
  MemoryFileSystem files;
  files.put(kName, sample_bytes(SaveMode::kDelta, 6000));
  pack_recording(kName, {.file_system = &files});
  const Recording recording = Recording::open(kName, {.file_system = &files});
  Bytes delta(recording.geometry().delta_bytes());
  const std::uint64_t before = files.bytes_read();
  static_cast<void>(recording.read_step(4000, delta));
  const std::uint64_t one = files.bytes_read() - before;
  EXPECT_LT(one, recording.stored_bytes() / 3);
  static_cast<void>(recording.read_step(4001, delta));
  EXPECT_EQ(files.bytes_read() - before, one);
  recording.release_buffers();
  static_cast<void>(recording.read_step(4001, delta));
  EXPECT_EQ(files.bytes_read() - before, 2 * one);
}

TEST(Pack, ThreadsMayReadTogether) {
  MemoryFileSystem files;
  files.put(kName, sample_bytes(SaveMode::kDelta, 6000));
  pack_recording(kName, {.file_system = &files});
  const Recording recording = Recording::open(kName, {.file_system = &files});
  std::vector<int> wrong(4);
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < wrong.size(); ++i) {
      threads.emplace_back([&, i] {
        std::mt19937 random(i);
        Bytes delta(recording.geometry().delta_bytes());
        for (int round = 0; round < 100; ++round) {
          const std::uint64_t step = random() % 6000;
          const StepStats stats = recording.read_step(step, delta);
          if (!(stats == sample_stats(recording.header(), step)) ||
              delta != sample_delta(recording.geometry(), 3 + step)) {
            ++wrong[i];
          }
        }
      });
    }
  }
  EXPECT_EQ(wrong, std::vector<int>(wrong.size(), 0));
}

TEST(Pack, RefusesWhatItCannotProveOrNeedNotDo) {
  MemoryFileSystem files;
  const Bytes whole = sample_bytes(SaveMode::kDelta, 3);
  const auto refusal = [&](const Bytes& bytes, auto call) {
    files.put(kName, bytes);
    const Error error = error_of([&] { call(kName, PackOptions{.file_system = &files}); });
    EXPECT_EQ(files.bytes(kName), bytes);
    return error;
  };
  const Error truncated = refusal({whole.begin(), whole.end() - 200}, pack_recording);
  EXPECT_EQ(truncated.code(), ErrorCode::kUsage);
  EXPECT_THAT(truncated.what(), HasSubstr("recover it first"));
  Bytes damaged = whole;
  damaged[whole.size() / 2] ^= std::byte{1};
  EXPECT_EQ(refusal(damaged, pack_recording).code(), ErrorCode::kCorrupt);
  EXPECT_THAT(refusal(whole, unpack_recording).what(), HasSubstr("is not packed"));
  files.put(kName, whole);
  pack_recording(kName, {.file_system = &files});
  const Bytes packed = files.bytes(kName);
  EXPECT_THAT(refusal(packed, pack_recording).what(), HasSubstr("is packed already"));
  EXPECT_THAT(refusal({packed.begin(), packed.end() - 1}, unpack_recording).what(),
              HasSubstr("recover it first"));
}

// Changes one byte of what it is told to write.
class LyingFileSystem final : public FileSystem {
 public:
  LyingFileSystem(FileSystem& files, std::uint64_t wrong_byte)
      : files_(files), wrong_byte_(wrong_byte) {}
  std::unique_ptr<WritableFile> create(const std::filesystem::path& path) override {
    return std::make_unique<File>(files_.create(path), wrong_byte_);
  }
  std::unique_ptr<RandomAccessFile> open(const std::filesystem::path& path) override {
    return files_.open(path);
  }
  void rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    files_.rename(from, to);
  }
  void remove(const std::filesystem::path& path) override { files_.remove(path); }

 private:
  class File final : public WritableFile {
   public:
    File(std::unique_ptr<WritableFile> file, std::uint64_t wrong_byte)
        : file_(std::move(file)), wrong_byte_(wrong_byte) {}
    void append(std::span<const std::byte> data) override {
      Bytes copy(data.begin(), data.end());
      if (wrong_byte_ >= at_ && wrong_byte_ < at_ + copy.size()) {
        copy[wrong_byte_ - at_] ^= std::byte{0x10};
      }
      at_ += copy.size();
      file_->append(copy);
    }
    void sync() override { file_->sync(); }
    void close() override { file_->close(); }

   private:
    std::unique_ptr<WritableFile> file_;
    std::uint64_t wrong_byte_;
    std::uint64_t at_ = 0;
  };

  FileSystem& files_;
  std::uint64_t wrong_byte_;
};

TEST(Pack, AWrongByteInWhatWasWrittenKeepsTheOldFile) {
  const Bytes original = sample_bytes(SaveMode::kDelta, 3);
  MemoryFileSystem files;
  files.put(kName, original);
  pack_recording(kName, {.file_system = &files});
  const Bytes packed = files.bytes(kName);
  for (std::uint64_t wrong = 0; wrong < packed.size(); wrong += 7) {
    LyingFileSystem lying(files, wrong);
    files.put(kName, original);
    try {
      pack_recording(kName, {.file_system = &lying});
      // Padding between sections of the file that no reader needs.
      files.put("y.kvc", files.bytes(kName));
      unpack_recording("y.kvc", {.file_system = &files});
      ASSERT_EQ(files.bytes("y.kvc"), original) << wrong;
    } catch (const Error&) {
      ASSERT_EQ(files.bytes(kName), original) << wrong;
    }
  }
  for (std::uint64_t wrong = 0; wrong < original.size(); wrong += 7) {
    LyingFileSystem lying(files, wrong);
    files.put(kName, packed);
    const Error error = error_of([&] { unpack_recording(kName, {.file_system = &lying}); });
    ASSERT_EQ(error.code(), ErrorCode::kCorrupt);
    ASSERT_EQ(files.bytes(kName), packed) << wrong;
  }
}

TEST(Pack, AFaultAtAnyCallLeavesOneWholeFileAndNoOther) {
  const Bytes original = sample_bytes(SaveMode::kDelta, 3);
  MemoryFileSystem files;
  files.put(kName, original);
  pack_recording(kName, {.file_system = &files});
  const Bytes packed = files.bytes(kName);
  const auto try_all = [&](const Bytes& before, const Bytes& after, auto call) {
    int calls = 1000;
    for (int fail = 0; fail < calls; ++fail) {
      SCOPED_TRACE(fail);
      MemoryFileSystem failing;
      failing.put(kName, before);
      failing.fail_call(fail);
      try {
        call(kName, PackOptions{.file_system = &failing});
        calls = failing.calls();
        ASSERT_EQ(failing.bytes(kName), after);
      } catch (const Error&) {
        // Only the last call, syncing the folder, comes after the rename.
        const bool renamed = failing.log().back().starts_with("sync_directory");
        ASSERT_EQ(failing.bytes(kName), renamed ? after : before);
      }
      ASSERT_EQ(failing.names(), std::vector<std::filesystem::path>{kName});
    }
    ASSERT_GT(calls, 5);
    ASSERT_LT(calls, 1000);
  };
  try_all(original, packed, pack_recording);
  try_all(packed, original, unpack_recording);
}

}  // namespace
}  // namespace kvtool::format
