// What a command reads of its recordings, and how often.
#include <gmock/gmock.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "kvtool/format/reader.h"
#include "kvtool/run/diff.h"
#include "kvtool/run/generation.h"
#include "kvtool/run/replay.h"
#include "kvtool/run/selftest.h"
#include "kvtool/run/services.h"
#include "support/counting_file_system.h"
#include "support/fake_engine.h"
#include "support/folder_test.h"
#include "support/kv_places.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;
using format::ReplayMode;
using testing::Each;
using testing::Pair;
using testing::SizeIs;

class ReadOnce : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    write("models/tiny.pt", "");
  }

  [[nodiscard]] Services services() {
    return {
        .open_engine = [this](const std::string&,
                              const engine::EngineOptions&) { return make_fake_engine(engine_); },
        .encoder = {},
        .now = std::chrono::system_clock::now,
        .files = counting_};
  }

  // Prompts of 3 to 5 tokens: one full batch of two rows with padding and one row alone.
  static constexpr std::size_t kInputs = 3;
  void record(const std::string& base_dir, format::SaveMode mode = format::SaveMode::kDelta) {
    Request request = request_for({"models/tiny.pt"});
    for (std::size_t i = 0; i < kInputs; ++i) {
      Prompt& prompt = request.prompts.emplace_back();
      prompt.kind = Prompt::Kind::kTokenIds;
      for (std::size_t t = 0; t < 3 + i; ++t) {
        prompt.token_ids.push_back(static_cast<std::int32_t>(5 + 7 * i + t));
      }
    }
    request.batch_sizes = {2};
    request.max_new_tokens = 4;
    request.ignore_eos = true;
    request.save = true;
    request.save_mode = mode;
    request.base_dir = base_dir;
    Observer nobody;
    run_generation(request, services(), nobody);
    counting_.forget();
  }

  static Request request_for(std::vector<std::string> models) {
    Request request;
    request.models = std::move(models);
    return request;
  }
  static Request replay_request() {
    Request request;
    request.from = "ref/CPU/tiny";
    request.replay_modes = {ReplayMode::kInject, ReplayMode::kForced, ReplayMode::kFree};
    return request;
  }
  void replay(const Request& request) {
    Observer nobody;
    EXPECT_FALSE(run_replay(request, services(), nobody).failed());
  }

  // `count` recordings were opened, each once.
  void expect_opened_once(std::size_t count = kInputs) const {
    EXPECT_THAT(counting_.opens(), SizeIs(count));
    EXPECT_THAT(counting_.opens(), Each(Pair(testing::_, 1U)));
  }

  // Every byte of K/V of every recording was read so often.
  void expect_kv_read(std::uint32_t times) const {
    for (std::size_t input = 0; input < kInputs; ++input) {
      const fs::path path = "ref/CPU/tiny/batch2_input" + std::to_string(input) + ".kvc";
      const std::vector<FilePart> places = kv_places(path);
      EXPECT_GE(places.size(), 4U);
      for (const FilePart& place : places) {
        EXPECT_EQ(counting_.reads(path, place.offset, place.bytes), std::pair(times, times))
            << path << " from byte " << place.offset;
      }
    }
  }

  FakeEngineState engine_;
  CountingFileSystem counting_;
};

class EveryShape : public ReadOnce,
                   public testing::WithParamInterface<std::pair<ReplayShape, format::SaveMode>> {};

INSTANTIATE_TEST_SUITE_P(
    ReadOnce, EveryShape,
    testing::Values(std::pair(ReplayShape::kRecorded, format::SaveMode::kDelta),
                    std::pair(ReplayShape::kRecorded, format::SaveMode::kPrefillOnly),
                    std::pair(ReplayShape::kRecorded, format::SaveMode::kFinalOnly),
                    std::pair(ReplayShape::kSingle, format::SaveMode::kDelta),
                    std::pair(ReplayShape::kParallel, format::SaveMode::kDelta),
                    std::pair(ReplayShape::kParallel, format::SaveMode::kFinalOnly)));

TEST_P(EveryShape, InjectReadsEachByteOfKvOnce) {
  record("ref", GetParam().second);
  Request request = replay_request();
  request.replay_shape = GetParam().first;
  request.replay_modes = {ReplayMode::kInject};
  replay(request);
  expect_opened_once();
  expect_kv_read(1);
}

TEST_F(ReadOnce, EachModeReadsEachByteOfKvOnce) {
  record("ref");
  replay(replay_request());
  expect_kv_read(3);
}

// Without a model, a recording says which it is.
TEST_F(ReadOnce, AReplayOpensEachRecordingOnce) {
  record("ref");
  replay(replay_request());
  expect_opened_once();
}

TEST_F(ReadOnce, AReplayOfSingleInputsOpensEachRecordingOnce) {
  record("ref");
  Request request = replay_request();
  request.replay_shape = ReplayShape::kSingle;
  replay(request);
  expect_opened_once();
}

TEST_F(ReadOnce, AParallelReplayOpensEachRecordingOnce) {
  record("ref");
  Request request = replay_request();
  request.replay_shape = ReplayShape::kParallel;
  request.replay_modes = {ReplayMode::kInject, ReplayMode::kForced};
  replay(request);
  expect_opened_once();
}

TEST_F(ReadOnce, AReplayThatRecordsOpensEachRecordingOnce) {
  record("ref");
  Request request = replay_request();
  request.save = true;
  request.base_dir = "again";
  replay(request);
  expect_opened_once();
}

// The named one, and its mate for the shape of the batch.
TEST_F(ReadOnce, AReplayOfOneRecordingOpensItAndItsMateOnce) {
  record("ref");
  Request request = replay_request();
  request.from = "ref/CPU/tiny/batch2_input1.kvc";
  replay(request);
  EXPECT_EQ(counting_.opens("ref/CPU/tiny/batch2_input1.kvc"), 1U);
  EXPECT_EQ(counting_.opens("ref/CPU/tiny/batch2_input0.kvc"), 1U);
}

TEST_F(ReadOnce, ATruncatedRecordingIsWalkedOnce) {
  record("ref");
  const fs::path path = "ref/CPU/tiny/batch2_input2.kvc";
  fs::resize_file(path, fs::file_size(path) * 3 / 4);
  replay(replay_request());
  expect_opened_once();
}

TEST_F(ReadOnce, TheTrialsOfASelftestShareTheirRecordings) {
  record("ref");
  Request request = request_for({"models/tiny.pt"});
  request.from = "ref/CPU/tiny";
  Observer nobody;
  run_selftest(request, /*search=*/true, services(), nobody);
  EXPECT_GT(engine_.replay_options.size(), 10U);
  expect_opened_once();
}

TEST_F(ReadOnce, ADiffOpensEachRecordingOnce) {
  record("ref");
  record("other");
  Observer nobody;
  EXPECT_FALSE(
      run_diff({.reference = "ref", .live = "other", .gate = {}}, services(), nobody).failed());
  expect_opened_once(2 * kInputs);
}

}  // namespace
}  // namespace kvtool::run
