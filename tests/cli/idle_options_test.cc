// Options that would do nothing in a run are refused; keys of a configuration are not.
#include <gmock/gmock.h>

#include <string>

#include "save_replay_fixture.h"

namespace kvtool::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

class IdleOptions : public SaveReplay {
 protected:
  void SetUp() override {
    SaveReplay::SetUp();
    save(1, "--out ref_cache");
  }

  // "run" with this kv_cache.
  void configure(const std::string& kv_cache) {
    write("hyperparameter.json",
          R"({"models": ["models/tiny.pt"], "prompts": "prompts.jsonl", "max_new_tokens": 6,
              "kv_cache": )" +
              kv_cache + "}");
  }

  // `option` may have an argument.
  void expect_refused(const std::string& command, const std::string& option,
                      const std::string& why) {
    const CommandResult result = run(command + " " + option);
    EXPECT_EQ(result.status, 2) << command << " " << option;
    EXPECT_THAT(result.err, HasSubstr(option.substr(0, option.find(' ')))) << command;
    EXPECT_THAT(result.err, HasSubstr(why)) << command;
  }
};

const std::vector<std::string> kOfRecording = {"--save-mode delta", "--out own", "--force",
                                               "--fsync", "--fsync-every 2"};
const std::vector<std::string> kOfLogits = {"--top-k 8", "--logits-sample 8"};
const std::vector<std::string> kOfLength = {"--max-new-tokens 4", "--ignore-eos"};
const std::vector<std::string> kOfReplay = {"--from CPU",
                                            "--ref-dir ref_cache",
                                            "--from-batch-size 1",
                                            "--batch 1",
                                            "--parallel",
                                            "--mode inject",
                                            "--parallel-memory 64",
                                            "--gate same-device",
                                            "--allow-different-weights"};

TEST_F(IdleOptions, AReplayHasNoneOfAGeneration) {
  for (const auto& options : {kOfLogits, kOfLength}) {
    for (const std::string& option : options) {
      expect_refused("replay --from CPU", option, "kvtool replay has no option");
    }
  }
  const std::string help = run("replay --help").out;
  for (const char* name : {"--top-k", "--logits-sample", "--max-new-tokens", "--ignore-eos"}) {
    EXPECT_THAT(help, Not(HasSubstr(name)));
    EXPECT_THAT(run("save --help").out, HasSubstr(name));
  }
}

TEST_F(IdleOptions, AReplayWithoutSaveHasNoneOfARecording) {
  for (const std::string& option : kOfRecording) {
    expect_refused("replay --from CPU", option, "this run records nothing: add --save");
    EXPECT_EQ(run("replay --from CPU --save --out own --force " +
                  (option == "--out own" || option == "--force" ? std::string() : option))
                  .status,
              0)
        << option;
  }
}

TEST_F(IdleOptions, MemoryIsForAParallelReplay) {
  expect_refused("replay --from CPU", "--parallel-memory 64", "add --parallel");
  EXPECT_EQ(run("replay --from CPU --parallel --parallel-memory 64").status, 0);
}

TEST_F(IdleOptions, ARunThatGeneratesHasNoneOfRecordingsAndReplays) {
  configure("{}");
  for (const auto& options : {kOfRecording, kOfLogits}) {
    for (const std::string& option : options) {
      expect_refused("run", option, "records nothing: set kv_cache.save in the configuration");
    }
  }
  expect_refused("run", "--resume", "records nothing");
  for (const std::string& option : kOfReplay) {
    expect_refused("run", option, "replays nothing: set kv_cache.load in the configuration");
  }
  for (const std::string& option : kOfLength) EXPECT_EQ(run("run " + option).status, 0) << option;
}

TEST_F(IdleOptions, ARunThatReplaysHasNoneOfAGeneration) {
  for (const char* kv_cache : {R"({"load": true, "load_from_device": "CPU"})",
                               R"({"load": true, "load_from_device": "CPU", "save": true})"}) {
    configure(kv_cache);
    for (const auto& options : {kOfLogits, kOfLength}) {
      for (const std::string& option : options) {
        expect_refused("run", option, "does nothing in a replay");
      }
    }
    for (const std::string& option : kOfReplay) {
      if (option == "--parallel-memory 64") continue;
      EXPECT_EQ(run("run " + option).status, 0) << option;
    }
  }
  EXPECT_EQ(run("run --out own --save-mode delta --fsync").status, 0) << "it saves";
}

TEST_F(IdleOptions, ARunThatSavesTakesAllOfARecording) {
  configure(R"({"save": true})");
  EXPECT_EQ(run("run --out own --top-k 8 --logits-sample 8 --save-mode delta --fsync-every 2 "
                "--max-new-tokens 4 --ignore-eos")
                .status,
            0);
  expect_refused("run --out other", "--gate same-device", "replays nothing");
}

TEST_F(IdleOptions, AReferenceThatIsThereHasItsLengthAndPrompts) {
  for (const std::string command : {"selftest --model models/tiny.pt --quick",
                                    "calibrate --model models/tiny.pt --out g.json"}) {
    const std::string reason = "--from names one that is there";
    expect_refused(command + " --from CPU", "--max-new-tokens 4", reason);
    for (const char* prompts : {" --prompt Hi", " --prompts prompts.jsonl"}) {
      const CommandResult both = run(command + " --from CPU" + prompts);
      EXPECT_EQ(both.status, 2);
      EXPECT_THAT(both.err, HasSubstr("--from has its own prompts"));
    }
    expect_refused(command + " --prompt Hi", "--ref-dir ref_cache", "add --from LABEL");
  }
  expect_refused("calibrate --model models/tiny.pt --out g.json --from CPU", "--ignore-eos",
                 "--from names one that is there");
  EXPECT_EQ(run("selftest --model models/tiny.pt --quick --from CPU --ref-dir ref_cache").status,
            0);
}

TEST_F(IdleOptions, AConfigurationServesSeveralCommands) {
  configure(R"({"save": true, "save_mode": "delta", "base_dir": "own", "fsync_every": 2,
                "load_from_device": "CPU", "load_from_batch_size": 1, "replay_modes": ["inject"]})");
  for (const char* command :
       {"generate", "replay", "save", "run --out other", "selftest --quick --from CPU"}) {
    const CommandResult result = run(command);
    EXPECT_EQ(result.status, 0) << command << ": " << result.err;
  }
}

}  // namespace
}  // namespace kvtool::cli
