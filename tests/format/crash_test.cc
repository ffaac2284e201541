// Kills a process that records, at a random moment, again and again: what it
// leaves behind is checked after every kill, and the next process goes on with it.
//
// KVTOOL_CRASH_KILLS sets how often (default 40).
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <new>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "kvtool/base/background_worker.h"
#include "kvtool/base/error.h"
#include "kvtool/format/row.h"

namespace kvtool::format {
namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::byte>;

constexpr std::uint64_t kRecordings = 12;
constexpr std::uint64_t kCrashSteps = 25;
constexpr std::uint64_t kCrashPromptLength = 6;
constexpr std::size_t kCrashSlots = 4;

int kills() {
  const char* text = std::getenv("KVTOOL_CRASH_KILLS");
  return text == nullptr ? 40 : std::atoi(text);
}

// What the child has been told by the system that it took. Outlives the child.
struct Progress {
  std::atomic<std::uint64_t> recording;
  std::atomic<std::uint64_t> steps;
  std::atomic<bool> prefill;
  std::atomic<std::uint64_t> finished;
};

// Steps of 48 KB, so that a write can be torn between pages.
Geometry geometry() {
  const LayerGeometry layer{DType::kBFloat16, DType::kFloat32, 8, 64, 64};
  return Geometry(std::vector<LayerGeometry>(16, layer));
}

Bytes pattern(std::uint64_t recording, std::uint64_t salt, std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<std::byte>(recording * 7 + salt * 131 + i * 29 + i / 251);
  }
  return bytes;
}

StepStats stats(std::uint64_t recording, std::uint64_t index, bool prefill) {
  StepStats result;
  result.input_token = prefill ? -1 : static_cast<std::int32_t>((recording + index) % 50);
  result.token = static_cast<std::int32_t>((recording + index + 1) % 50);
  result.elapsed_ns = 1000;
  result.logsumexp = static_cast<double>(index);
  result.top_ids = {result.token, (result.token + 1) % 50};
  result.top_logits = {2.0F, 1.0F};
  return result;
}

class Recorder {
 public:
  Recorder(fs::path folder, Progress& progress) : folder_(std::move(folder)), progress_(progress) {}

  // Records what is missing, through the same parts as the engine does.
  void run() {
    for (std::uint64_t i = 0; i < kRecordings; ++i) {
      if (fs::exists(name(i))) continue;
      progress_.steps = 0;
      progress_.prefill = false;
      progress_.recording = i;
      record(i);
      ++progress_.finished;
    }
  }

  [[nodiscard]] fs::path name(std::uint64_t recording) const {
    return folder_ / ("batch1_input" + std::to_string(recording) + ".kvc");
  }

 private:
  void record(std::uint64_t index) {
    RecordingHeader header;
    header.uuid = random_uuid();
    header.vocab_size = 50;
    header.top_k = 2;
    header.prompt_length = kCrashPromptLength;
    header.geometry = geometry();
    const auto sink =
        make_recording_sink({.path = name(index),
                             .header = header,
                             .meta_json = "{}",
                             .prompt = std::vector<std::int32_t>(kCrashPromptLength, 3),
                             .token_text = {},
                             .writer = {}});
    std::array<Bytes, kCrashSlots> buffers;
    BackgroundWorker worker(kCrashSlots);
    worker.enqueue([&] { prefill(*sink, index); });
    for (std::uint64_t step = 0; step < kCrashSteps; ++step) {
      const std::size_t slot = worker.acquire();
      buffers[slot] = pattern(index, step, geometry().delta_bytes());
      worker.submit(slot, [&, slot, step] {
        sink->on_step(step, stats(index, step, false), buffers[slot]);
        progress_.steps = step + 1;
      });
    }
    worker.enqueue([&] { sink->on_end({StopReason::kMaxNewTokens, 0.5, 2.0}); });
    worker.drain();
  }

  void prefill(RowSink& sink, std::uint64_t index) {
    for (std::uint32_t layer = 0; layer < geometry().num_layers(); ++layer) {
      const LayerGeometry shape = geometry().layer(layer);
      sink.on_prefill_layer(layer, pattern(index, layer, shape.key_bytes() * kCrashPromptLength),
                            pattern(index, layer + 50, shape.value_bytes() * kCrashPromptLength));
    }
    sink.on_prefill_end(stats(index, 0, true));
    progress_.prefill = true;
  }

  fs::path folder_;
  Progress& progress_;
};

class ExhaustiveCrash : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "kvtool-crash-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    void* shared = ::mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(shared, MAP_FAILED);
    progress_ = new (shared) Progress{};
  }
  void TearDown() override {
    ::munmap(progress_, sizeof(Progress));
    fs::remove_all(folder_);
  }

  // True when the child was killed, false when it had recorded everything before.
  bool record_and_kill(std::uint64_t after_ns) {
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        Recorder(folder_, *progress_).run();
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        ::_exit(1);
      }
      ::_exit(0);
    }
    const timespec delay{0, static_cast<long>(after_ns)};
    ::nanosleep(&delay, nullptr);
    ::kill(child, SIGKILL);
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
  }

  static void expect_content(const Recording& recording, std::uint64_t index) {
    EXPECT_NO_THROW(recording.verify());
    if (!recording.has_prefill()) return;
    EXPECT_EQ(recording.read_prefill_stats(), stats(index, 0, true));
    Bytes delta(recording.geometry().delta_bytes());
    for (std::uint64_t step = 0; step < recording.num_steps(); ++step) {
      ASSERT_EQ(recording.read_step(step, delta), stats(index, step, false));
      ASSERT_EQ(delta, pattern(index, step, delta.size())) << step;
    }
  }

  // Returns how many are finished.
  std::uint64_t check_finished() {
    std::uint64_t finished = 0;
    for (std::uint64_t i = 0; i < kRecordings; ++i) {
      const fs::path path = Recorder(folder_, *progress_).name(i);
      if (!fs::exists(path)) continue;
      SCOPED_TRACE(path);
      ++finished;
      const Recording recording = Recording::open(path);
      EXPECT_TRUE(recording.complete());
      EXPECT_EQ(recording.num_steps(), kCrashSteps);
      expect_content(recording, i);
    }
    return finished;
  }

  // At most one, and with every step whose write had returned.
  void check_unfinished() {
    const std::uint64_t index = progress_->recording;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().extension() != ".partial") continue;
      SCOPED_TRACE(entry.path());
      EXPECT_EQ(entry.path().stem(), Recorder(folder_, *progress_).name(index).filename());
      ++unfinished_;
      try {
        const Recording recording = Recording::open(entry.path());
        EXPECT_TRUE(recording.has_prefill() || !progress_->prefill);
        EXPECT_GE(recording.num_steps(), progress_->steps);
        expect_content(recording, index);
        with_steps_ += recording.num_steps() > 0 ? 1 : 0;
      } catch (const Error& error) {
        // Killed within the first three writes: header, META and PROMPT.
        EXPECT_FALSE(progress_->prefill) << error.what();
        EXPECT_EQ(fs::exists(entry.path()), true);
      }
    }
  }

  fs::path folder_;
  Progress* progress_ = nullptr;
  int unfinished_ = 0;
  int with_steps_ = 0;
};

TEST_F(ExhaustiveCrash, AtAnyMomentLosesNothingThatWasWritten) {
  std::mt19937_64 random(20261122);
  std::uniform_int_distribution<std::uint64_t> delay_ns(0, 30'000'000);
  int killed = 0;
  int restarts = 0;
  while (killed < kills() && !HasFailure()) {
    SCOPED_TRACE("kill " + std::to_string(killed));
    killed += record_and_kill(delay_ns(random)) ? 1 : 0;
    const std::uint64_t finished = check_finished();
    EXPECT_GE(finished, progress_->finished);
    check_unfinished();
    if (finished < kRecordings) continue;
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), kRecordings);
    for (const auto& entry : fs::directory_iterator(folder_)) fs::remove(entry.path());
    progress_->finished = 0;
    ++restarts;
  }
  std::printf(
      "%d kills: %d left an unfinished recording, %d of them with steps; "
      "all %d recordings were finished %d times\n",
      killed, unfinished_, with_steps_, static_cast<int>(kRecordings), restarts);
}

}  // namespace
}  // namespace kvtool::format
