// Files that shrink or change while they are read. Nothing is mapped into memory,
// so that no access can end in SIGBUS; the reader says what it met.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "sample.h"
#include "support/error_of.h"

namespace kvtool::format {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class ChangingFile : public testing::TestWithParam<SaveMode> {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "kvtool-changing-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = folder_ / "x.kvc";
    header_ = sample_header(GetParam());
    write_sample(posix_file_system(), path_, header_, kSteps);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Everything that a replay reads.
  static void read_all(const Recording& recording) {
    const Geometry& geometry = recording.geometry();
    for (std::uint32_t layer = 0; layer < geometry.num_layers(); ++layer) {
      const std::uint64_t positions = recording.num_cached_positions();
      Bytes key(geometry.layer(layer).key_bytes() * positions);
      Bytes value(geometry.layer(layer).value_bytes() * positions);
      recording.read_layer(layer, positions, key, value);
    }
    for (std::uint64_t step = 0; step < recording.num_steps(); ++step) {
      Bytes delta(recording.has_deltas() ? geometry.delta_bytes() : 0);
      (void)(delta.empty() ? recording.read_step_stats(step) : recording.read_step(step, delta));
    }
  }

  static constexpr std::uint64_t kSteps = 4;
  fs::path folder_;
  fs::path path_;
  RecordingHeader header_;
};

INSTANTIATE_TEST_SUITE_P(KvcReader, ChangingFile,
                         testing::Values(SaveMode::kDelta, SaveMode::kPrefillOnly,
                                         SaveMode::kFinalOnly),
                         [](const auto& mode) { return std::string(save_mode_name(mode.param)); });

TEST_P(ChangingFile, AFileThatShrinksIsAnErrorAtEveryLength) {
  const auto whole = fs::file_size(path_);
  const fs::path copy = folder_ / "copy.kvc";
  int errors = 0;
  for (std::uintmax_t size = 0; size < whole; size += 32) {
    fs::copy_file(path_, copy, fs::copy_options::overwrite_existing);
    const Recording recording = Recording::open(copy);
    fs::resize_file(copy, size);
    try {
      read_all(recording);
    } catch (const Error& error) {
      ++errors;
      EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
      EXPECT_THAT(error.what(), HasSubstr("copy.kvc: "));
      EXPECT_THAT(error.what(), HasSubstr("it became shorter while it was read"));
    }
    const Error verified = error_of([&] { recording.verify(); });
    EXPECT_EQ(verified.code(), ErrorCode::kCorrupt) << size;
  }
  EXPECT_GT(errors, 5);
}

TEST_P(ChangingFile, AByteThatChangesAfterOpeningIsNoticedWhenItIsRead) {
  const Recording recording = Recording::open(path_);
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  for (auto at = fs::file_size(path_) / 3; at < fs::file_size(path_); ++at) {
    file.seekp(static_cast<std::streamoff>(at));
    file.put('\xA5');
  }
  file.flush();
  EXPECT_EQ(error_of([&] { read_all(recording); }).code(), ErrorCode::kCorrupt);
  EXPECT_EQ(error_of([&] { recording.verify(); }).code(), ErrorCode::kCorrupt);
}

TEST_P(ChangingFile, AFileThatIsReplacedIsReadAsItWas) {
  const Recording recording = Recording::open(path_);
  write_sample(posix_file_system(), path_, header_, 1);
  expect_sample(recording, kSteps);
  EXPECT_NO_THROW(recording.verify());
  expect_sample(Recording::open(path_), 1);
}

}  // namespace
}  // namespace kvtool::format
