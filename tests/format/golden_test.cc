// Frozen files: recordings of version 1.0 and 1.1 stay readable for ever, and the
// writer keeps making the latest ones byte for byte. A change that breaks these tests
// changes the format: it needs a new version, or, for an optional record, further files.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "kvtool/format/verify.h"
#include "sample.h"

namespace kvtool::format {
namespace {

constexpr std::uint64_t kGoldenSteps = 2;
constexpr std::uint64_t kLongSteps = 70;  // more than a group of CHECKSUMS

// Before CHECKSUMS, which the writer does not leave out any more.
std::filesystem::path first_path(SaveMode mode) {
  return std::filesystem::path(KVTOOL_TEST_DATA) /
         ("v1_" + std::string(save_mode_name(mode)) + ".kvc");
}

std::filesystem::path golden_path(const SampleKind& kind) {
  return std::filesystem::path(KVTOOL_TEST_DATA) /
         ((kind.extended ? "v1_1_" : "v1_checksums_") + std::string(save_mode_name(kind.mode)) +
          ".kvc");
}

std::filesystem::path long_path() {
  return std::filesystem::path(KVTOOL_TEST_DATA) / "v1_long_delta.kvc";
}

// How the files were made: once, on purpose, when a version is born.
void make_frozen_file(const std::filesystem::path& path, const RecordingHeader& header,
                      std::uint64_t steps) {
  if (std::getenv("KVTOOL_MAKE_GOLDEN_FILES") == nullptr) return;
  if (std::filesystem::exists(path)) return;
  write_sample(posix_file_system(), path, header, steps);
}

std::vector<std::filesystem::path> paths_of(const SampleKind& kind) {
  if (kind.extended) return {golden_path(kind)};
  return {first_path(kind.mode), golden_path(kind)};
}

Bytes read_bytes(const std::filesystem::path& path) {
  const auto file = posix_file_system().open(path);
  Bytes bytes(file->size());
  EXPECT_EQ(file->read(0, bytes), bytes.size());
  return bytes;
}

class Golden : public testing::TestWithParam<SampleKind> {
 protected:
  void SetUp() override {
    make_frozen_file(golden_path(GetParam()), GetParam().header(), kGoldenSteps);
  }
};

INSTANTIATE_TEST_SUITE_P(KvcFormat, Golden, testing::ValuesIn(kSampleKinds),
                         [](const auto& kind) { return kind.param.name(); });

TEST_P(Golden, FrozenFileIsReadWhole) {
  for (const std::filesystem::path& path : paths_of(GetParam())) {
    SCOPED_TRACE(path);
    const Recording recording = Recording::open(path);
    EXPECT_TRUE(recording.complete());
    expect_sample(recording, kGoldenSteps);
    EXPECT_NO_THROW(recording.verify());
  }
}

TEST(GoldenLong, WriterStillMakesTheFrozenFile) {
  const RecordingHeader header = sample_header(SaveMode::kDelta);
  make_frozen_file(long_path(), header, kLongSteps);
  EXPECT_EQ(sample_bytes(header, kLongSteps), read_bytes(long_path()));
}

TEST_P(Golden, FrozenFileVerifies) {
  const std::vector<FileVerdict> verdicts = verify_files(paths_of(GetParam()));
  for (const FileVerdict& verdict : verdicts) {
    EXPECT_EQ(verdict.state, FileState::kIntact) << verdict.path;
    EXPECT_EQ(verdict.num_steps, kGoldenSteps);
  }
}

TEST_P(Golden, WriterStillMakesTheFrozenFile) {
  EXPECT_EQ(sample_bytes(GetParam().header(), kGoldenSteps), read_bytes(golden_path(GetParam())));
}

}  // namespace
}  // namespace kvtool::format
