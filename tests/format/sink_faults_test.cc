// A disk that fails while rows are recorded through a background thread, as the engine
// does it: at every call, in every way, with real files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <filesystem>

#include "kvtool/base/background_worker.h"
#include "kvtool/format/row.h"
#include "sample.h"
#include "support/error_of.h"
#include "support/faulty_file_system.h"

namespace kvtool::format {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr std::uint64_t kFaultSteps = 4;
constexpr std::size_t kSlots = 2;

class SinkFaults : public testing::TestWithParam<SaveMode> {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "kvtool-faults-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Two rows of a batch, side by side.
  void record() {
    const RecordingHeader header = sample_header(GetParam());
    std::array<std::unique_ptr<RowSink>, 2> sinks;
    for (std::size_t row = 0; row < sinks.size(); ++row) {
      sinks[row] = make_recording_sink(
          {.path = path(row),
           .header = header,
           .meta_json = sample_meta().dump(),
           .prompt = sample_prompt(header),
           .token_text = {},
           .writer = {.file_system = &files_, .sync = true, .sync_every_steps = 2}});
    }
    std::array<Bytes, kSlots> deltas;
    BackgroundWorker worker(kSlots);
    worker.enqueue([&] {
      for (const auto& sink : sinks) prefill(*sink, header);
    });
    for (std::uint64_t step = 0; step < kFaultSteps; ++step) {
      const std::size_t slot = worker.acquire();
      deltas[slot] = GetParam() == SaveMode::kDelta
                         ? sample_delta(header.geometry, header.prompt_length + step)
                         : Bytes();
      worker.submit(slot, [&, slot, step] {
        for (const auto& sink : sinks) {
          sink->on_step(step, sample_stats(header, step), deltas[slot]);
        }
      });
    }
    worker.enqueue([&] {
      for (const auto& sink : sinks) end(*sink, header);
    });
    worker.drain();
  }

  static void prefill(RowSink& sink, const RecordingHeader& header) {
    if (sink.needs().prefill_kv) {
      for (std::uint32_t layer = 0; layer < header.geometry.num_layers(); ++layer) {
        sink.on_prefill_layer(layer, sample_key(header.geometry, layer, header.prompt_length),
                              sample_value(header.geometry, layer, header.prompt_length));
      }
    }
    sink.on_prefill_end(sample_prefill_stats(header));
  }

  static void end(RowSink& sink, const RecordingHeader& header) {
    if (sink.needs().final_kv) {
      const std::uint64_t positions = header.prompt_length + kFaultSteps;
      for (std::uint32_t layer = 0; layer < header.geometry.num_layers(); ++layer) {
        sink.on_final_layer(layer, sample_key(header.geometry, layer, positions),
                            sample_value(header.geometry, layer, positions));
      }
    }
    sink.on_end({});
  }

  [[nodiscard]] fs::path path(std::size_t row) const {
    return folder_ / "out" / ("batch2_input" + std::to_string(row) + ".kvc");
  }

  // A final name is a whole recording; an unfinished one is readable, unless it was
  // cut within its first three records.
  void expect_nothing_lost() {
    for (std::size_t row = 0; row < 2; ++row) {
      if (fs::exists(path(row))) {
        const Recording recording = Recording::open(path(row));
        EXPECT_TRUE(recording.complete());
        EXPECT_NO_THROW(recording.verify());
        expect_sample(recording, kFaultSteps);
      }
      const fs::path partial = path(row).string() + std::string(kPartialSuffix);
      if (!fs::exists(partial)) continue;
      try {
        const Recording recording = Recording::open(partial);
        recording.verify();
        if (recording.has_prefill()) expect_sample(recording, recording.num_steps());
      } catch (const Error& error) {
        const std::string text = error.what();
        EXPECT_TRUE(text.find("ends within") != std::string::npos ||
                    text.find("empty file") != std::string::npos)
            << text;
      }
    }
  }

  FaultyFileSystem files_;
  fs::path folder_;
};

INSTANTIATE_TEST_SUITE_P(RecordingSink, SinkFaults,
                         testing::Values(SaveMode::kDelta, SaveMode::kPrefillOnly,
                                         SaveMode::kFinalOnly),
                         [](const auto& mode) { return std::string(save_mode_name(mode.param)); });

TEST_P(SinkFaults, AtEveryCallAreReportedAndLoseNothing) {
  std::vector<DiskFault> faults = {DiskFault::kFull};
  if (GetParam() == SaveMode::kDelta) {
    faults.insert(faults.end(), {DiskFault::kInputOutput, DiskFault::kFileTooLarge});
  }
  for (const DiskFault fault : faults) {
    int call = 0;
    for (;; ++call) {
      fs::remove_all(folder_ / "out");
      files_.fail_call(call, fault);
      try {
        record();
        EXPECT_FALSE(files_.fired()) << "call " << call << " failed and nobody said so";
      } catch (const Error& error) {
        SCOPED_TRACE("call " + std::to_string(call) + ", " + files_.last_call());
        EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
        EXPECT_THAT(error.what(), HasSubstr(disk_fault_text(fault)));
        EXPECT_THAT(error.what(), HasSubstr((folder_ / "out").string()));
      }
      expect_nothing_lost();
      if (!files_.fired()) break;
      // What failed can be done again.
      files_.fail_call(-1, fault);
      ASSERT_NO_THROW(record());
      expect_nothing_lost();
      EXPECT_TRUE(fs::exists(path(0)) && fs::exists(path(1)));
    }
    EXPECT_GT(call, 40);
  }
}

}  // namespace
}  // namespace kvtool::format
