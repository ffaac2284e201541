// bench on recordings of the fake engine, and the recordings that it makes itself.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "cli_fixture.h"
#include "kvtool/format/reader.h"
#include "run/files/rebuilt_cache.h"
#include "support/error_of.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using format::Recording;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

class BenchCommandTest : public CommandTest {
 protected:
  fs::path recorded(const std::string& save_mode) {
    save(1, "--out " + save_mode + " --save-mode " + save_mode);
    return save_mode + "/CPU/tiny/batch1_input0.kvc";
  }
  json bench(const std::string& words) {
    const CommandResult result = run("bench " + words + " --json -");
    EXPECT_EQ(result.status, 0) << result.err;
    return json::parse(result.out).at("bench");
  }
};

TEST_F(BenchCommandTest, MeasuresEveryFigureInEveryRepeat) {
  const fs::path path = recorded("delta");
  const json result = bench(path.string() + " --repeats 3");
  const json recording = result.at("recordings").at(0);
  const Recording opened = Recording::open(path);
  EXPECT_EQ(recording.at("bytes"), fs::file_size(path));
  EXPECT_EQ(recording.at("steps"), 5);
  EXPECT_EQ(recording.at("kv_bytes"),
            opened.num_cached_positions() * opened.geometry().position_bytes());
  std::vector<std::string> measurements;
  for (const json& figure : recording.at("figures")) {
    measurements.push_back(figure.at("measurement"));
    ASSERT_EQ(figure.at("values").size(), 3U) << figure;
    for (const json& value : figure.at("values")) EXPECT_GT(value.get<double>(), 0.0) << figure;
  }
  EXPECT_THAT(measurements, ElementsAre("open", "steps", "random", "random", "rebuild", "verify"));
}

TEST_F(BenchCommandTest, MeasuresOnlyWhatIsNamed) {
  const json result = bench(recorded("delta").string() + " --only verify,open --repeats 1");
  const json figures = result.at("recordings").at(0).at("figures");
  ASSERT_EQ(figures.size(), 2U);
  EXPECT_EQ(figures.at(0).at("measurement"), "open");
  EXPECT_EQ(figures.at(1).at("measurement"), "verify");
}

TEST_F(BenchCommandTest, SaysWhatARecordingDoesNotHold) {
  const json result = bench(recorded("prefill_only").string() + " --repeats 1");
  const json recording = result.at("recordings").at(0);
  EXPECT_THAT(recording.at("left_out").at("rebuild").get<std::string>(), HasSubstr("prefill_only"));
  EXPECT_EQ(recording.at("figures").size(), 2U);
}

TEST_F(BenchCommandTest, RefusesADamagedRecording) {
  const fs::path path = recorded("delta");
  std::string bytes = read(path);
  bytes[bytes.size() / 2] ^= 1;
  write(path, bytes);
  EXPECT_EQ(run("bench " + path.string() + " --only verify").status, 4);
}

TEST_F(BenchCommandTest, StopsWhenInterrupted) {
  const fs::path path = recorded("delta");
  interrupt_source().request_stop();
  EXPECT_EQ(run("bench " + path.string()).status, kInterruptedStatus);
}

TEST_F(BenchCommandTest, TellsUsageErrors) {
  const std::string path = recorded("delta").string();
  EXPECT_EQ(run("bench").status, 2);
  EXPECT_EQ(run("bench missing.kvc").status, 2);
  EXPECT_EQ(run("bench delta").status, 2);
  EXPECT_EQ(run("bench " + path + " --make other.kvc").status, 2);
  EXPECT_EQ(run("bench " + path + " --only speed").status, 2);
  EXPECT_EQ(run("bench " + path + " --repeats 0").status, 2);
  EXPECT_EQ(run("bench --make other.txt").status, 2);
  EXPECT_EQ(run("bench --make " + path).status, 2);
  EXPECT_EQ(run("bench --make missing/other.kvc").status, 2);
}

TEST_F(BenchCommandTest, MakesAValidRecordingOfTheSizeAskedFor) {
  const json made = bench("--make made.kvc --bytes 50M").at("made");
  EXPECT_EQ(made.at("bytes"), fs::file_size("made.kvc"));
  EXPECT_GE(fs::file_size("made.kvc"), 50'000'000U);
  EXPECT_LT(fs::file_size("made.kvc"), 51'000'000U);
  const Recording recording = Recording::open("made.kvc");
  EXPECT_TRUE(recording.complete());
  recording.verify();
}

TEST_F(BenchCommandTest, RepeatsTheRowsOfAnotherRecording) {
  const fs::path path = recorded("delta");
  bench("--make made.kvc --bytes 10k --like " + path.string());
  const Recording like = Recording::open(path);
  const Recording made = Recording::open("made.kvc");
  made.verify();
  EXPECT_GE(made.file_bytes(), 10'000U);
  ASSERT_GT(made.num_steps(), like.num_steps());
  EXPECT_NE(made.header().uuid, like.header().uuid);
  EXPECT_EQ(made.read_prefill_stats(), like.read_prefill_stats());
  std::vector<std::byte> expected(like.geometry().delta_bytes());
  std::vector<std::byte> found(expected.size());
  for (std::uint64_t step = 0; step < made.num_steps(); ++step) {
    EXPECT_EQ(made.read_step(step, found), like.read_step(step % like.num_steps(), expected));
    EXPECT_EQ(found, expected) << step;
  }
}

TEST_F(BenchCommandTest, MakesNothingLikeARecordingWithoutSteps) {
  const fs::path path = recorded("prefill_only");
  EXPECT_EQ(run("bench --make made.kvc --like " + path.string()).status, 2);
  EXPECT_FALSE(fs::exists("made.kvc"));
}

TEST_F(BenchCommandTest, LeavesNothingOfAnInterruptedRecording) {
  interrupt_source().request_stop();
  EXPECT_EQ(run("bench --make made.kvc --bytes 50M").status, kInterruptedStatus);
  EXPECT_FALSE(fs::exists("made.kvc"));
  EXPECT_FALSE(fs::exists("made.kvc.partial"));
}

class RebuiltCacheTest : public BenchCommandTest {
 protected:
  // As a bench would do it; `alter` changes one step's rows.
  static void rebuild(const Recording& recording,
                      const std::function<void(std::span<std::byte>)>& alter) {
    run::RebuiltCache cache(recording.geometry(), recording.num_cached_positions());
    cache.load_prompt(recording);
    std::vector<std::byte> delta(recording.geometry().delta_bytes());
    for (std::uint64_t step = 0; step < recording.num_steps(); ++step) {
      recording.read_delta(step, delta);
      if (step == 2) alter(delta);
      cache.append(delta);
    }
    cache.check_against(recording);
  }
};

TEST_F(RebuiltCacheTest, EqualsTheStateOfTheRecording) {
  const Recording recording = Recording::open(recorded("delta"));
  EXPECT_NO_THROW(rebuild(recording, [](auto) {}));
}

TEST_F(RebuiltCacheTest, NoticesASingleWrongByte) {
  const Recording recording = Recording::open(recorded("delta"));
  const std::uint64_t in_layer_1 = recording.geometry().row_offset(1).value;
  EXPECT_EQ(error_of([&] {
              rebuild(recording,
                      [&](std::span<std::byte> delta) { delta[in_layer_1] ^= std::byte{1}; });
            }).code(),
            ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace kvtool::cli
