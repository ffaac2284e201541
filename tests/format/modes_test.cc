// The tables of replay modes and save modes: each row is found by its name and by its mode.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string_view>
#include <vector>

#include "kvtool/format/replay_mode.h"
#include "kvtool/format/save_mode.h"

namespace kvtool::format {
namespace {

using testing::ElementsAre;

template <typename Table>
std::vector<std::string_view> names_in(const Table& table) {
  std::vector<std::string_view> names;
  for (const auto& row : table) names.push_back(row.name);
  return names;
}

TEST(ReplayModes, AreFoundByNameAndMode) {
  EXPECT_THAT(names_in(kReplayModes), ElementsAre("inject", "forced", "free"));
  for (const ReplayModeInfo& info : kReplayModes) {
    EXPECT_EQ(parse_replay_mode(info.name), info.mode);
    EXPECT_EQ(replay_mode_name(info.mode), info.name);
    EXPECT_FALSE(info.summary.empty());
  }
  EXPECT_EQ(replay_mode_name(ReplayMode::kForced), "forced");
  EXPECT_FALSE(parse_replay_mode("teacher").has_value());
}

// The numbers stand in files (docs/format.md, byte 80).
TEST(SaveModes, AreFoundByNameAndByTheNumberInTheFile) {
  EXPECT_THAT(names_in(kSaveModes), ElementsAre("delta", "prefill_only", "final_only"));
  std::uint8_t number = 0;
  for (const SaveModeInfo& info : kSaveModes) {
    EXPECT_EQ(static_cast<std::uint8_t>(info.mode), ++number);
    EXPECT_EQ(parse_save_mode(info.name), info.mode);
    EXPECT_EQ(save_mode_name(info.mode), info.name);
    EXPECT_FALSE(info.summary.empty());
  }
  EXPECT_EQ(save_mode_name(SaveMode::kFinalOnly), "final_only");
  EXPECT_FALSE(parse_save_mode("everything").has_value());
  EXPECT_EQ(save_mode_name(static_cast<SaveMode>(9)), "unknown");
}

}  // namespace
}  // namespace kvtool::format
