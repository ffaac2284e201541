// save --resume, disks that fail, and two runs at once, with a fake engine and
// real files.
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "cli_fixture.h"
#include "kvtool/base/error.h"
#include "kvtool/format/reader.h"
#include "kvtool/format/writer.h"
#include "kvtool/run/paths.h"
#include "support/recording_content.h"
#include "support/stride.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

const fs::path kFolder = "rec/CPU/tiny";

class Resume : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    write_prompts(5);
  }

  CommandResult save(const std::string& options, const std::string& out = "rec", int tokens = 6) {
    return run("save --model models/tiny.pt --prompts prompts.jsonl --ignore-eos --out " + out +
               " --max-new-tokens " + std::to_string(tokens) + " " + options);
  }

  // name -> content without what differs between any two runs
  static std::map<std::string, std::string> contents(const fs::path& folder) {
    std::map<std::string, std::string> result;
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      result[name] =
          run::is_partial_path(entry.path()) ? "unfinished" : recording_content(entry.path());
    }
    return result;
  }

  static std::map<std::string, std::string> bytes_of(const fs::path& folder) {
    std::map<std::string, std::string> result;
    if (!fs::exists(folder)) return result;
    for (const auto& entry : fs::directory_iterator(folder)) {
      result[entry.path().filename().string()] = read(entry.path());
    }
    return result;
  }

  // Stops the next run after this step of this batch.
  void interrupt_at(std::uint64_t batch, std::uint64_t step) {
    engine_.on_step = [=](std::uint64_t b, std::uint64_t s) {
      if (b == batch && s == step) interrupt_source().request_stop();
    };
  }
  void go_on() {
    interrupt_source().reset();
    engine_.on_step = nullptr;
  }
};

TEST_F(Resume, AnInterruptedRunBecomesTheUninterruptedOne) {
  for (const format::SaveModeInfo& info : format::kSaveModes) {
    const std::string mode(info.name);
    const std::string options = "--batch-size 2 --save-mode " + mode;
    ASSERT_EQ(save(options, "whole_" + mode).status, 0);
    for (std::uint64_t batch = 0; batch < 3; ++batch) {
      const std::string out = "rec_" + mode + std::to_string(batch);
      interrupt_at(batch, 2);
      const CommandResult stopped = save(options, out);
      EXPECT_EQ(stopped.status, 130);
      EXPECT_THAT(stopped.err, HasSubstr("the same command with --resume records the rest"));
      go_on();
      const auto before = bytes_of(out + "/CPU/tiny");
      const CommandResult result = save(options + " --resume", out);
      EXPECT_EQ(result.status, 0) << result.err;
      EXPECT_THAT(result.err, HasSubstr(std::to_string(2 * batch) +
                                        " of 5 recordings of tiny are complete and kept"));
      EXPECT_EQ(contents(out + "/CPU/tiny"), contents("whole_" + mode + "/CPU/tiny"));
      for (const auto& [name, bytes] : before) {
        if (run::is_partial_path(name)) continue;
        EXPECT_EQ(read(out + "/CPU/tiny/" + name), bytes) << name;
      }
    }
  }
}

TEST_F(Resume, WithNothingThereItRecordsEverythingAndWithEverythingNothing) {
  EXPECT_EQ(save("--batch-size 2 --resume").status, 0);
  EXPECT_EQ(engine_.generated_batches.size(), 3U);
  const auto before = bytes_of(kFolder);
  const CommandResult again = save("--batch-size 2 --resume");
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_EQ(engine_.generated_batches.size(), 3U) << "nothing was generated again";
  EXPECT_THAT(again.err, HasSubstr("5 of 5 recordings"));
  EXPECT_EQ(bytes_of(kFolder), before);
}

TEST_F(Resume, ABatchRunsInItsShapeAndItsFinishedRowsStay) {
  ASSERT_EQ(save("--batch-size 3", "whole").status, 0);
  for (const format::SaveModeInfo& info : format::kSaveModes) {
    const std::string mode(info.name);
    fs::remove_all("rec");
    ASSERT_EQ(save("--batch-size 3 --save-mode " + mode).status, 0);
    const auto whole = contents(kFolder);
    fs::remove(kFolder / "batch3_input1.kvc");
    const auto before = bytes_of(kFolder);
    engine_.generated_batches.clear();
    const CommandResult result = save("--batch-size 3 --resume --save-mode " + mode);
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_EQ(engine_.generated_batches, (std::vector<std::size_t>{3}));
    EXPECT_EQ(contents(kFolder), whole);
    for (const auto& [name, bytes] : before) EXPECT_EQ(read(kFolder / name), bytes) << name;
    const auto id = [](const char* name) {
      return format::Recording::open(kFolder / name).meta()["run"]["batch_id"];
    };
    EXPECT_EQ(id("batch3_input1.kvc"), id("batch3_input0.kvc"));
    EXPECT_EQ(run("replay --from rec/CPU").status, 0);
  }
}

TEST_F(Resume, ARowThatComesOutDifferentlyIsNamed) {
  ASSERT_EQ(save("--batch-size 3").status, 0);
  fs::remove(kFolder / "batch3_input1.kvc");
  const auto before = bytes_of(kFolder);
  engine_.generate_perturb = [](std::uint64_t index, format::StepStats& stats) {
    if (index == 3) stats.logits_digest ^= 1;
  };
  const CommandResult result = save("--batch-size 3 --resume");
  EXPECT_EQ(result.status, 3);
  EXPECT_THAT(result.err, HasSubstr("batch3_input0.kvc: computed again, step 2 differs from the "
                                    "recording: other logits"));
  for (const auto& [name, bytes] : before) EXPECT_EQ(read(kFolder / name), bytes) << name;
  EXPECT_FALSE(fs::exists(kFolder / "batch3_input1.kvc"));
}

TEST_F(Resume, AnotherSettingIsRefusedWithFileAndField) {
  ASSERT_EQ(save("--batch-size 2 --top-k 4").status, 0);
  fs::remove(kFolder / "batch2_input3.kvc");
  const auto before = bytes_of(kFolder);
  engine_.generated_batches.clear();
  const auto refuses = [&](const std::string& options, const std::string& part, int tokens = 6) {
    const CommandResult result = save("--resume " + options, "rec", tokens);
    EXPECT_EQ(result.status, 2) << options;
    EXPECT_THAT(result.err,
                HasSubstr("rec/CPU/tiny/batch2_input0.kvc: it was recorded with " + part));
    EXPECT_EQ(bytes_of(kFolder), before);
  };
  refuses("--batch-size 2 --top-k 5", "top-k 4, this run has 5");
  refuses("--batch-size 2 --top-k 4 --save-mode prefill_only",
          "save mode delta, this run has prefill_only");
  refuses("--batch-size 2 --top-k 4", "max_new_tokens 6, this run has 7", 7);
  engine_.weights = 7;
  refuses("--batch-size 2 --top-k 4", "the model 01000");
  engine_.weights = 1;
  engine_.device.provenance_json = R"({"torch_version": "9.10"})";
  refuses("--batch-size 2 --top-k 4", "torch 9.9, this run has 9.10");
  engine_.device.provenance_json = R"({"torch_version": "9.9"})";
  write("prompts.jsonl", "{\"token_ids\": [3, 5]}\n{\"token_ids\": [10, 11, 12]}\n");
  refuses("--batch-size 2 --top-k 4 --request-number 5", "prompt token 1 4, this run has 5");
  EXPECT_TRUE(engine_.generated_batches.empty());
}

TEST_F(Resume, AnotherConfigOrGraphIsRefused) {
  engine_.metadata_json = fake_metadata(1000);
  ASSERT_EQ(save("--batch-size 2").status, 0);
  fs::remove(kFolder / "batch2_input3.kvc");
  const auto before = bytes_of(kFolder);
  engine_.metadata_json = fake_metadata(5000);
  const CommandResult config = save("--batch-size 2 --resume");
  EXPECT_EQ(config.status, 3);
  EXPECT_THAT(config.err, HasSubstr("rec/CPU/tiny/batch2_input0.kvc: it was recorded with another "
                                    "config of the model"));
  EXPECT_THAT(config.err, HasSubstr("recorded: rope_parameters.rope_theta = 1000\n"));
  EXPECT_THAT(config.err, HasSubstr("here:     rope_parameters.rope_theta = 5000"));
  // Of another batch size, whose names are not taken.
  const CommandResult sizes = save("--batch-size 4 --resume");
  EXPECT_EQ(sizes.status, 3);
  EXPECT_THAT(sizes.err, HasSubstr("here:     rope_parameters.rope_theta = 5000"));
  // Not another model by itself, but its bits may be others.
  engine_.metadata_json = fake_metadata(1000, 'c');
  const CommandResult graph = save("--batch-size 2 --resume");
  EXPECT_EQ(graph.status, 2);
  EXPECT_THAT(graph.err, HasSubstr("recorded with traced graph bbbbbbbbbbbb..."));
  engine_.metadata_json = R"({"torch_version": "9.9", "exporter_version": "1"})";
  const CommandResult unknown = save("--batch-size 2 --resume");
  EXPECT_EQ(unknown.status, 2);
  EXPECT_THAT(unknown.err, HasSubstr("this run has unknown"));
  EXPECT_EQ(bytes_of(kFolder), before);
  engine_.metadata_json = fake_metadata(1000);
  EXPECT_EQ(save("--batch-size 2 --resume").status, 0);
}

TEST_F(Resume, AnotherEndOfSequenceRuleOrLastBatchIsRefused) {
  ASSERT_EQ(save("--batch-size 2").status, 0);
  const CommandResult longer = save("--batch-size 2 --resume --request-number 6");
  EXPECT_EQ(longer.status, 2);
  EXPECT_THAT(longer.err, HasSubstr("batch2_input4.kvc: it was recorded with rows of the batch 1, "
                                    "this run has 2"));
  const CommandResult eos =
      run("save --model models/tiny.pt --prompts prompts.jsonl --max-new-tokens 6 --batch-size 2 "
          "--out rec --resume");
  EXPECT_EQ(eos.status, 2);
  EXPECT_THAT(eos.err, HasSubstr("ignore_eos true, this run has false"));
}

TEST_F(Resume, MoreInputsAreRecordedBesideTheOthers) {
  ASSERT_EQ(save("--request-number 3").status, 0);
  engine_.generated_batches.clear();
  EXPECT_EQ(save("--resume").status, 0);
  EXPECT_EQ(engine_.generated_batches.size(), 2U);
  ASSERT_EQ(save("", "whole").status, 0);
  EXPECT_EQ(contents(kFolder), contents("whole/CPU/tiny"));
}

TEST_F(Resume, ARecordingThatLostItsEndIsRecordedAgainAndADamagedOneIsNamed) {
  ASSERT_EQ(save("", "whole").status, 0);
  ASSERT_EQ(save("").status, 0);
  const fs::path path = kFolder / "batch1_input2.kvc";
  const std::string bytes = read(path);
  write(path, bytes.substr(0, bytes.size() - 400));
  const CommandResult cut = save("--resume");
  EXPECT_EQ(cut.status, 0) << cut.err;
  EXPECT_THAT(cut.err, HasSubstr("batch1_input2.kvc is cut short"));
  EXPECT_EQ(contents(kFolder), contents("whole/CPU/tiny"));
  std::string damaged = bytes;
  damaged[damaged.size() / 2] ^= 1;
  write(path, damaged);
  const CommandResult result = save("--resume");
  EXPECT_EQ(result.status, 4);
  EXPECT_THAT(result.err, HasSubstr("batch1_input2.kvc"));
  EXPECT_THAT(result.err, HasSubstr("remove it"));
  EXPECT_EQ(read(path), damaged);
}

TEST_F(Resume, RowsOfTwoRunsAreNotOneBatch) {
  ASSERT_EQ(save("--batch-size 3").status, 0);
  const std::string older = read(kFolder / "batch3_input1.kvc");
  ASSERT_EQ(save("--batch-size 3 --force").status, 0);
  write(kFolder / "batch3_input1.kvc", older);
  const CommandResult result = save("--batch-size 3 --resume");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("batch3_input1.kvc: it was recorded in another run"));
}

TEST_F(Resume, ALeftoverBesideAFinishedRecordingIsRemoved) {
  ASSERT_EQ(save("").status, 0);
  write(kFolder / "batch1_input2.kvc.partial", "of a run with --force that was killed");
  EXPECT_EQ(save("--resume").status, 0);
  EXPECT_FALSE(fs::exists(kFolder / "batch1_input2.kvc.partial"));
}

TEST_F(Resume, ATimestampMeansTheNewestFolder) {
  const std::string out = "runs/{timestamp}/kv";
  for (const char* older :
       {"runs/20260102_030404/kv", "runs/20260102-030405/kv", "runs/20260102-030405-2/kv",
        "runs/20260102-030405-10/kv", "runs/20260102-030405-11", "runs/20260202-x", "runs/notes"}) {
    fs::create_directories(older);
  }
  EXPECT_EQ(run::newest_output_folder(out), fs::path("runs/20260102-030405-10/kv"));
  fs::create_directories("runs/20260102_030406/kv");
  EXPECT_EQ(run::newest_output_folder(out), fs::path("runs/20260102_030406/kv"))
      << "as older versions wrote it";
  fs::remove_all("runs/20260102_030406");
  fs::remove_all("runs/20260102-030405-10");
  fs::remove_all("runs/20260102-030405-11");
  interrupt_at(1, 2);
  EXPECT_EQ(save("", out).status, 130);
  go_on();
  const CommandResult result = save("--resume", out);
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.err, HasSubstr("resuming in runs/20260102-030405-3/kv"));
  EXPECT_THAT(result.err, HasSubstr("1 of 5 recordings"));
}

TEST_F(Resume, ATimestampWithoutAnEarlierRunStartsOne) {
  EXPECT_EQ(run::newest_output_folder("runs/{timestamp}/kv"), std::nullopt);
  EXPECT_EQ(run::newest_output_folder("rec"), std::nullopt);
  EXPECT_EQ(save("--resume", "runs/x_{timestamp}_y").status, 0);
  EXPECT_EQ(run::newest_output_folder("runs/x_{timestamp}_y"),
            fs::path("runs/x_20260102-030405_y"));
}

TEST_F(Resume, TheConfigurationMayAskForItAndForFsync) {
  const std::string cache =
      R"("kv_cache": {"save": true, "base_dir": "rec", "resume": true, "fsync_every": 2})";
  write("hyperparameter.json",
        R"({"models": ["models/tiny.pt"], "prompts": "prompts.jsonl", "max_new_tokens": 4, )" +
            cache + "}");
  EXPECT_EQ(run("run").status, 0);
  EXPECT_EQ(engine_.generated_batches.size(), 5U);
  EXPECT_EQ(run("run").status, 0);
  EXPECT_EQ(engine_.generated_batches.size(), 5U);
  EXPECT_EQ(run("run --force").status, 2);
  EXPECT_EQ(run("replay --from rec/CPU").status, 0) << "resume says nothing to a replay";
}

TEST_F(Resume, WhatItCannotGoWithIsAUsageError) {
  EXPECT_EQ(save("--resume --force").status, 2);
  ASSERT_EQ(save("").status, 0);
  const CommandResult result = run("replay --from rec/CPU --save --resume --out own");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("kvtool replay has no option --resume"));
  write("load.json",
        R"({"models": ["models/tiny.pt"], "prompts": "prompts.jsonl", "kv_cache": )"
        R"({"load": true, "save": true, "load_from_device": "CPU", "load_base_dir": "rec"}})");
  const CommandResult loaded = run("run --config load.json --resume");
  EXPECT_EQ(loaded.status, 2);
  EXPECT_THAT(loaded.err, HasSubstr("only 'save' can be resumed"));
  ASSERT_EQ(run("replay --from rec/CPU --save --device-label OTHER --out rec").status, 0);
  const CommandResult replayed = save("--resume --device-label OTHER");
  EXPECT_EQ(replayed.status, 2);
  EXPECT_THAT(replayed.err, HasSubstr("it was not recorded by 'save'"));
}

TEST_F(Resume, ExistingRecordingsAreRefusedWithBothWaysOut) {
  ASSERT_EQ(save("").status, 0);
  const CommandResult result = save("");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("--resume to record what is missing"));
}

// The other run is a process of its own that has the folder.
TEST_F(Resume, TwoRunsDoNotShareAFolder) {
  ASSERT_EQ(save("--request-number 1").status, 0);
  const auto before = bytes_of(kFolder);
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t other = ::fork();
  if (other == 0) {
    const auto lock = posix_file_system().lock_folder(kFolder);
    (void)!::write(ready[1], "x", 1);
    ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  for (const char* options : {"--resume", "--force", "--batch-size 2"}) {
    const CommandResult result = save(options);
    EXPECT_EQ(result.status, 5) << options;
    EXPECT_THAT(result.err, HasSubstr("rec/CPU/tiny: another kvtool (pid " + std::to_string(other) +
                                      ") is writing to this folder"));
    EXPECT_EQ(bytes_of(kFolder), before);
  }
  EXPECT_EQ(run("replay --from rec/CPU").status, 0) << "reading needs no lock";
  ::kill(other, SIGKILL);
  ::waitpid(other, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  EXPECT_EQ(save("--resume").status, 0) << "the lock ended with its process";
}

class ExhaustiveDiskFaults : public Resume, public testing::WithParamInterface<DiskFault> {
 protected:
  // Of what had its final name before, nothing is lost, and what has one is whole.
  static void expect_nothing_lost(const std::map<std::string, std::string>& whole) {
    if (!fs::exists(kFolder)) return;
    for (const auto& [name, content] : contents(kFolder)) {
      if (run::is_partial_path(name)) continue;
      EXPECT_EQ(content, whole.at(name)) << name;
      EXPECT_NO_THROW(format::Recording::open(kFolder / name).verify());
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Save, ExhaustiveDiskFaults,
                         testing::Values(DiskFault::kFull, DiskFault::kInputOutput,
                                         DiskFault::kFileTooLarge));

TEST_P(ExhaustiveDiskFaults, AtEveryCallEndTheRunWithAMessageAndResumeCompletesIt) {
  const std::string options = "--request-number 3 --batch-size 2 --fsync-every 2 ";
  ASSERT_EQ(save(options, "whole").status, 0);
  const auto whole = contents("whole/CPU/tiny");
  int call = static_cast<int>(first_of(GetParam()));
  for (;; call += static_cast<int>(kStride)) {
    fs::remove_all("rec");
    files_.fail_call(call, GetParam());
    const CommandResult result = save(options);
    const bool fired = files_.fired();
    SCOPED_TRACE("call " + std::to_string(call) + ", " + files_.last_call());
    ASSERT_EQ(result.status, fired ? 5 : 0) << result.err;
    if (fired) {
      EXPECT_THAT(result.err, HasSubstr(disk_fault_text(GetParam())));
    }
    expect_nothing_lost(whole);
    if (!fired) break;
    files_.fail_call(-1, GetParam());
    const auto before = bytes_of(kFolder);
    const CommandResult resumed = save(options + "--resume");
    ASSERT_EQ(resumed.status, 0) << resumed.err;
    EXPECT_EQ(contents(kFolder), whole);
    for (const auto& [name, bytes] : before) {
      if (run::is_partial_path(name)) continue;
      EXPECT_EQ(read(kFolder / name), bytes) << name;
    }
  }
  EXPECT_GT(call, 60);
}

TEST_P(ExhaustiveDiskFaults, AtEveryCallOfAForcedRunLeaveTheOlderOrTheNewerRecording) {
  const std::string options = "--request-number 2 --batch-size 2 ";
  ASSERT_EQ(save(options, "whole").status, 0);
  const auto whole = contents("whole/CPU/tiny");
  ASSERT_EQ(save(options).status, 0);
  for (int call = static_cast<int>(first_of(GetParam()));; call += static_cast<int>(kStride)) {
    files_.fail_call(call, GetParam());
    const CommandResult result = save(options + "--force");
    ASSERT_EQ(result.status, files_.fired() ? 5 : 0) << result.err;
    expect_nothing_lost(whole);
    EXPECT_TRUE(fs::exists(kFolder / "batch2_input0.kvc"));
    EXPECT_TRUE(fs::exists(kFolder / "batch2_input1.kvc"));
    if (!files_.fired()) break;
  }
}

}  // namespace
}  // namespace kvtool::cli
