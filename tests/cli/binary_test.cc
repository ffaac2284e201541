// The real binary: exit status, standard output and standard error.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli_fixture.h"
#include "kvtool/base/subprocess.h"
#include "kvtool/engine/cpu_isa.h"
#include "kvtool/format/replay_mode.h"
#include "kvtool/format/save_mode.h"
#include "kvtool/run/faults.h"

namespace kvtool::cli {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

ProcessResult kvtool(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), KVTOOL_BINARY);
  return run_process(arguments, "");
}

constexpr const char* kRecording = "rec/CPU/tiny/batch1_input0.kvc";

// Recordings come from the commands themselves, with the fake engine.
class Binary : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    save(2, "--out rec", 5);
  }
};

TEST_F(Binary, HelpNamesEveryCommandAndStatus) {
  const ProcessResult result = kvtool({"--help"});
  EXPECT_EQ(result.exit_status, 0);
  for (const char* name :
       {"generate", "save", "replay", "run", "info", "dump", "verify", "recover", "bench"}) {
    EXPECT_THAT(result.output, HasSubstr(name));
    const ProcessResult help = kvtool({name, "--help"});
    EXPECT_EQ(help.exit_status, 0);
    EXPECT_THAT(help.output, HasSubstr("Examples:"));
  }
  EXPECT_THAT(result.output, HasSubstr("Exit status"));
}

TEST_F(Binary, HelpFitsEightyColumns) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"--help"},
                                             {"generate", "--help"},
                                             {"save", "--help"},
                                             {"replay", "--help"},
                                             {"run", "--help"},
                                             {"info", "--help"},
                                             {"dump", "--help"},
                                             {"verify", "--help"},
                                             {"recover", "--help"},
                                             {"selftest", "--help"},
                                             {"diff", "--help"},
                                             {"bench", "--help"}}) {
    std::istringstream lines(kvtool(arguments).output);
    for (std::string line; std::getline(lines, line);) {
      const auto columns = std::count_if(line.begin(), line.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
      });
      EXPECT_LE(columns, 80) << line;
    }
  }
}

// Words of a text, one space between them: help wraps where a line is full.
std::string words_of(const std::string& text) {
  std::istringstream stream(text);
  std::string words;
  for (std::string word; stream >> word;) words += word + " ";
  return words;
}

TEST_F(Binary, HelpNamesEveryRowOfTheTablesOfChoices) {
  const std::string save = words_of(kvtool({"save", "--help"}).output);
  for (const format::SaveModeInfo& mode : format::kSaveModes) {
    EXPECT_THAT(save, HasSubstr(std::string(mode.name) + " (" + std::string(mode.summary) + ")"));
  }
  const std::string replay = words_of(kvtool({"replay", "--help"}).output);
  for (const format::ReplayModeInfo& mode : format::kReplayModes) {
    EXPECT_THAT(replay, HasSubstr(std::string(mode.name) + " (" + std::string(mode.summary) + ")"));
  }
  EXPECT_THAT(replay, HasSubstr("auto, sse41, avx2, avx512, avx512_bf16 "));
  const std::string selftest = words_of(kvtool({"selftest", "--help"}).output);
  for (const run::FaultInfo& fault : run::kFaults) {
    EXPECT_THAT(selftest, HasSubstr(std::string(fault.name) + " " + std::string(fault.summary)));
  }
}

TEST_F(Binary, OnlyRowsOfTheTablesAreChoices) {
  for (const engine::CpuIsa& isa : engine::kCpuIsas) {
    const ProcessResult result =
        kvtool({"generate", "--cpu-isa", std::string(isa.name), "--device", "tpu"});
    EXPECT_THAT(result.error_output, HasSubstr("'tpu' is not auto")) << isa.name;
  }
  EXPECT_THAT(kvtool({"generate", "--cpu-isa", "avx3"}).error_output, HasSubstr("avx512_bf16"));
  EXPECT_THAT(kvtool({"save", "--save-mode", "all"}).error_output, HasSubstr("prefill_only"));
  EXPECT_THAT(kvtool({"selftest", "--mode", "teacher"}).error_output, HasSubstr("forced"));
}

TEST_F(Binary, WithoutACommandItShowsTheHelpAsAnError) {
  const ProcessResult result = kvtool({});
  EXPECT_EQ(result.exit_status, 2);
  EXPECT_EQ(result.output, "");
  EXPECT_THAT(result.error_output, HasSubstr("Usage: kvtool"));
}

TEST_F(Binary, ShowsItsVersion) {
  EXPECT_THAT(kvtool({"--version"}).output, StartsWith("kvtool " KVTOOL_VERSION));
}

TEST_F(Binary, MisspeltNamesAreSuggested) {
  const ProcessResult command = kvtool({"relpay"});
  EXPECT_EQ(command.exit_status, 2);
  EXPECT_THAT(command.error_output, HasSubstr("did you mean 'replay'?"));
  const ProcessResult option = kvtool({"save", "--max-new-token", "3"});
  EXPECT_EQ(option.exit_status, 2);
  EXPECT_THAT(option.error_output, HasSubstr("did you mean '--max-new-tokens'?"));
}

TEST_F(Binary, WrongValuesAreUsageErrors) {
  EXPECT_EQ(kvtool({"generate", "--max-new-tokens", "0"}).exit_status, 2);
  EXPECT_EQ(kvtool({"generate", "--max-new-tokens", "-1"}).exit_status, 2);
  EXPECT_EQ(kvtool({"generate", "--batch-size", "x"}).exit_status, 2);
  EXPECT_EQ(kvtool({"generate", "--device", "tpu"}).exit_status, 2);
  EXPECT_EQ(kvtool({"save", "--save-mode", "all"}).exit_status, 2);
  EXPECT_EQ(kvtool({"replay"}).exit_status, 2);
  EXPECT_EQ(kvtool({"generate", "-q", "-v"}).exit_status, 2);
}

TEST_F(Binary, WhatACommandCannotDoWithoutIsNamedAsInItsHelp) {
  const ProcessResult pack = kvtool({"pack"});
  EXPECT_EQ(pack.exit_status, 2);
  EXPECT_THAT(pack.error_output, HasSubstr("kvtool pack needs FILE|DIR...: Recordings (.kvc)"));
  const ProcessResult dump = kvtool({"dump", kRecording});
  EXPECT_EQ(dump.exit_status, 2);
  EXPECT_THAT(dump.error_output, HasSubstr("kvtool dump needs --to FILE.safetensors: "));
}

TEST_F(Binary, NoPromptIsAUsageErrorWithAnExample) {
  const ProcessResult result = kvtool({"generate", "--model", "models/tiny.pt"});
  EXPECT_EQ(result.exit_status, 2);
  EXPECT_THAT(result.error_output, HasSubstr("--prompt \"What is the capital of France?\""));
}

TEST_F(Binary, AModelThatWasNotExportedNamesTheCommand) {
  const ProcessResult result = kvtool({"generate", "--model", "Org/Some-Model", "--prompt", "x"});
  EXPECT_EQ(result.exit_status, 5);
  EXPECT_THAT(result.error_output,
              HasSubstr("python3 tools/export_model.py --model Org/Some-Model"));
}

TEST_F(Binary, InfoShowsARecording) {
  const ProcessResult result = kvtool({"info", kRecording});
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_THAT(result.output, HasSubstr("State:        complete\nModel:        Fake/tiny\n"));
  EXPECT_THAT(result.output, HasSubstr("5 tokens, 4 decode steps"));
  const auto info = nlohmann::json::parse(kvtool({"info", kRecording, "--json"}).output);
  EXPECT_EQ(info["recordings"].at(0)["steps"], 4);
  EXPECT_EQ(info["recordings"].at(0)["kv"]["heads"], "2");
}

TEST_F(Binary, InfoListsAFolderWithUnreadableFiles) {
  EXPECT_EQ(kvtool({"info", "rec"}).exit_status, 0);
  write("rec/CPU/tiny/bad.kvc", "no recording at all");
  const ProcessResult result = kvtool({"info", "rec"});
  EXPECT_EQ(result.exit_status, 4);
  EXPECT_THAT(result.output, HasSubstr("UNREADABLE  rec/CPU/tiny/bad.kvc"));
  EXPECT_THAT(result.output, HasSubstr("3 recordings"));
  EXPECT_EQ(kvtool({"info", "rec/CPU/tiny/bad.kvc"}).exit_status, 4);
}

TEST_F(Binary, InfoOfNothingIsAUsageError) {
  EXPECT_EQ(kvtool({"info", "none.kvc"}).exit_status, 2);
  EXPECT_EQ(kvtool({"info", "models"}).exit_status, 2);
}

TEST_F(Binary, InfoShowsATruncatedRecording) {
  const std::string whole = read(kRecording);
  write("cut.kvc", whole.substr(0, whole.size() * 3 / 4));
  const ProcessResult result = kvtool({"info", "cut.kvc"});
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_THAT(result.output, HasSubstr("truncated"));
}

TEST_F(Binary, DumpWritesTheLastStepAndOverwritesNothing) {
  const ProcessResult result = kvtool({"dump", kRecording, "--to", "last.safetensors"});
  EXPECT_EQ(result.exit_status, 0) << result.error_output;
  EXPECT_THAT(result.output, HasSubstr("K/V of 6 positions after step 3"));
  EXPECT_THAT(read("last.safetensors"), HasSubstr("\"key.0\""));
  EXPECT_EQ(kvtool({"dump", kRecording, "--to", "last.safetensors"}).exit_status, 2);
  EXPECT_EQ(kvtool({"dump", kRecording, "--step", "-1", "--to", "last.safetensors", "--force"})
                .exit_status,
            0);
  const ProcessResult beyond = kvtool({"dump", kRecording, "--step", "9", "--to", "x.safetensors"});
  EXPECT_EQ(beyond.exit_status, 2);
  EXPECT_THAT(beyond.error_output, HasSubstr("3"));
}

TEST_F(Binary, ConfigurationErrorsAreUsageErrors) {
  write("hyperparameter.json", "{\"modles\": []}");
  const ProcessResult result = kvtool({"run"});
  EXPECT_EQ(result.exit_status, 2);
  EXPECT_THAT(result.error_output,
              HasSubstr("hyperparameter.json: unknown key 'modles'; did you mean 'models'?"));
}

TEST_F(Binary, AFullOutputIsAnError) {
  EXPECT_EQ(
      run_process({"sh", "-c", std::string("'") + KVTOOL_BINARY + "' info rec > /dev/full"}, "")
          .exit_status,
      5);
}

ProcessResult shell(const std::string& command) {
  return run_process({"/bin/sh", "-c", command}, "");
}

TEST_F(Binary, WhatDoesNotGetOutIsAnError) {
  if (!std::filesystem::is_character_file("/dev/full")) GTEST_SKIP();
  const std::string binary = KVTOOL_BINARY;
  for (const std::string words : {"--help", "--version", "save --help", "info rec"}) {
    const ProcessResult result = shell(binary + " " + words + " >/dev/full");
    EXPECT_EQ(result.exit_status, 5) << words;
    EXPECT_THAT(result.error_output, HasSubstr("standard output could not be written")) << words;
  }
}

TEST_F(Binary, AReportGoesToStandardOutputUnderAnyOfItsNames) {
  const std::string binary = KVTOOL_BINARY;
  EXPECT_TRUE(nlohmann::json::accept(shell(binary + " verify rec --json -").output));
  for (const std::string name : {"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"}) {
    const std::string command = binary + " verify rec --json " + name;
    EXPECT_TRUE(nlohmann::json::accept(shell(command + " | cat").output)) << name;
    EXPECT_EQ(shell(command + " >report.json").exit_status, 0);
    EXPECT_TRUE(nlohmann::json::accept(read("report.json"))) << name;
  }
  EXPECT_THAT(shell(binary + " diff rec rec --json - --html /dev/stdout").error_output,
              HasSubstr("--json and --html both write to stdout"));
}

TEST_F(Binary, ADumpGoesIntoAPipe) {
  const std::string binary = KVTOOL_BINARY;
  const std::string dump = binary + " dump " + kRecording + " --to ";
  EXPECT_EQ(shell(dump + "cache.safetensors").exit_status, 0);
  EXPECT_EQ(shell("mkfifo pipe; cat pipe > copy & " + dump + "pipe && wait").exit_status, 0);
  EXPECT_TRUE(std::filesystem::is_fifo("pipe"));
  EXPECT_EQ(read("copy"), read("cache.safetensors"));
}

TEST_F(Binary, ARecordingIsWrittenOverNoPipe) {
  const std::string binary = KVTOOL_BINARY;
  EXPECT_EQ(shell("mkfifo pipe.kvc").exit_status, 0);
  for (const std::string command : {"pack -o pipe.kvc --force ", "recover -o pipe.kvc --force "}) {
    const ProcessResult result = shell(binary + " " + command + kRecording);
    EXPECT_EQ(result.exit_status, 2) << result.error_output;
    EXPECT_THAT(result.error_output, HasSubstr("is a pipe or a device")) << command;
  }
  EXPECT_TRUE(std::filesystem::is_fifo("pipe.kvc"));
}

TEST_F(Binary, APathThatIsTooLongGetsOneShortLine) {
  for (const std::size_t size : {256U, 5000U}) {
    const std::string name(size, 'n');
    for (const std::vector<std::string>& arguments :
         std::vector<std::vector<std::string>>{{"info", name},
                                               {"verify", "rec", "--json", name},
                                               {"verify", name},
                                               {"dump", kRecording, "--to", name},
                                               {"diff", "rec", name},
                                               {"replay", "--from", name},
                                               {"run", "--config", name},
                                               {"pack", kRecording, "-o", name}}) {
      const ProcessResult result = kvtool(arguments);
      EXPECT_THAT(result.exit_status, testing::AnyOf(2, 5)) << arguments.front();
      EXPECT_THAT(result.error_output, HasSubstr("File name too long")) << arguments.front();
      EXPECT_LT(result.error_output.size(), 450U) << result.error_output;
      EXPECT_EQ(std::ranges::count(result.error_output, '\n'), 1) << result.error_output;
    }
  }
}

TEST_F(Binary, WhatOtherSystemsLeaveBesideRecordingsIsSkippedWithANote) {
  const std::string folder = "rec/CPU/tiny/";
  for (const char* name :
       {"._batch1_input0.kvc", "._batch1_input1.kvc.partial", ".DS_Store", "Thumbs.db"}) {
    write(folder + name, "Mac OS X        ");
  }
  std::filesystem::create_directories("rec/__MACOSX");
  write("rec/__MACOSX/batch1_input0.kvc", "not a recording");
  for (const std::string command :
       {"info rec", "verify rec", "diff rec rec", "pack rec", "unpack rec"}) {
    const ProcessResult result = shell(std::string(KVTOOL_BINARY) + " " + command);
    EXPECT_EQ(result.exit_status, 0) << command << result.error_output;
    EXPECT_THAT(result.error_output, HasSubstr("skipped what another system left there: "))
        << command;
  }
  const CommandResult replayed = run("replay --from rec/CPU");
  EXPECT_EQ(replayed.status, 0) << replayed.err;
  EXPECT_THAT(replayed.err, HasSubstr("._batch1_input0.kvc"));
  EXPECT_EQ(run("replay --from rec/CPU --model models/tiny.pt").status, 0);
  // A run into the folder that has them minds them as little.
  EXPECT_EQ(run("save --model models/tiny.pt --prompts prompts.jsonl --max-new-tokens 5 "
                "--ignore-eos --out rec --resume")
                .status,
            0);
}

}  // namespace
}  // namespace kvtool::cli
