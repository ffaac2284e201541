#include "kvtool/run/paths.h"

#include <gtest/gtest.h>

#include "kvtool/base/error.h"
#include "support/folder_test.h"

namespace kvtool::run {
namespace {

const WallTime kTime{std::chrono::seconds(1767323045)};

TEST(ModelSlug, TurnsRunsOfOtherCharactersToUnderscores) {
  EXPECT_EQ(model_slug("RedHatAI/Meta-Llama-3.1-8B-FP8"), "redhatai_meta_llama_3_1_8b_fp8");
  EXPECT_EQ(model_slug("--a//B--"), "a_b");
  EXPECT_EQ(model_slug("../.."), "");
}

TEST(DeviceLabel, IsAFoldersName) {
  EXPECT_EQ(device_label("NVIDIA H200"), "NVIDIA_H200");
  for (const char* bad : {"", ".", "..", "a/b", "a\nb"}) {
    EXPECT_THROW(static_cast<void>(device_label(bad)), Error) << bad;
  }
}

TEST(RecordingFileName, RoundTrips) {
  EXPECT_EQ(recording_file_name(4, 12), "batch4_input12.kvc");
  EXPECT_EQ(parse_recording_file_name("batch4_input12.kvc"), (RecordingName{4, 12, false}));
  EXPECT_EQ(parse_recording_file_name("batch4_input12.kvc.partial"), (RecordingName{4, 12, true}));
  for (const char* other :
       {"batch4.kvc", "batch_input1.kvc", "batch04_input1.kvc", "x.kvc", "batch1_input1.kvc2",
        "batch99999999999999999999_input1.kvc", "batch-1_input1.kvc"}) {
    EXPECT_EQ(parse_recording_file_name(other), std::nullopt) << other;
  }
}

TEST(ShellQuoted, QuotesWhatAShellWouldChange) {
  EXPECT_EQ(shell_quoted("a/b-c_1.kvc"), "a/b-c_1.kvc");
  EXPECT_EQ(shell_quoted("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_quoted(""), "''");
}

class OutputPattern : public FolderTest {};

TEST_F(OutputPattern, ExpandsTheTimestamp) {
  EXPECT_EQ(expand_output_pattern("out/{timestamp}/kv", kTime), "out/20260102-030405/kv");
  EXPECT_EQ(expand_output_pattern("plain", kTime), "plain");
}

TEST_F(OutputPattern, AvoidsAFolderThatExists) {
  std::filesystem::create_directories("out/20260102-030405");
  std::filesystem::create_directories("out/20260102-030405-2");
  EXPECT_EQ(expand_output_pattern("out/{timestamp}/kv", kTime), "out/20260102-030405-3/kv");
}

TEST_F(OutputPattern, RefusesOtherPlaceholders) {
  EXPECT_THROW(static_cast<void>(expand_output_pattern("out/{time}", kTime)), Error);
  EXPECT_THROW(static_cast<void>(expand_output_pattern("", kTime)), Error);
}

}  // namespace
}  // namespace kvtool::run
