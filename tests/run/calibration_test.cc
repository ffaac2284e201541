#include "kvtool/run/calibration.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "kvtool/base/file.h"
#include "kvtool/base/setting.h"
#include "kvtool/run/calibration_runs.h"
#include "run/calibrate/worker_messages.h"
#include "support/error_of.h"
#include "support/folder_test.h"

namespace kvtool::run {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using Names = std::vector<std::string>;

constexpr const char* kAvx512Bf16 = "processor : 0\nflags\t: fpu sse4_1 avx2 avx512f avx512_bf16\n";
constexpr const char* kAvx2 = "flags : fpu sse4_1 avx avx2\nbugs : avx512f\n";

TEST(WeakerInstructionSets, AreThoseOfTheCpuBelowWhatRunsAnyway) {
  EXPECT_EQ(weaker_instruction_sets(kAvx512Bf16, "auto"), (Names{"avx512", "avx2"}));
  EXPECT_EQ(weaker_instruction_sets(kAvx512Bf16, "avx512"), (Names{"avx2"}));
  EXPECT_EQ(weaker_instruction_sets(kAvx2, "auto"), (Names{"sse41"}));
  EXPECT_EQ(weaker_instruction_sets("flags : sse4_1", "auto"), Names{});
  EXPECT_EQ(weaker_instruction_sets("Features : fp asimd", "auto"), Names{});
  EXPECT_EQ(weaker_instruction_sets("", "auto"), Names{});
}

Names names_of(const std::vector<CalibrationVariant>& variants) {
  Names names;
  for (const CalibrationVariant& variant : variants) names.push_back(variant.name());
  return names;
}

TEST(PlanCalibration, VariesEverySettingAloneAndThenTogether) {
  const CalibrationMachine machine{
      .cpu = true, .threads = 2, .batched = true, .isa_limits = {"avx512", "avx2"}};
  EXPECT_EQ(names_of(plan_calibration(machine, 8)),
            (Names{"as recorded", "avx2", "avx512", "1 thread", "one input at a time",
                   "avx2, 1 thread", "avx512, 1 thread", "avx2, one input at a time"}));
}

TEST(PlanCalibration, RepeatsWhatThereIsWhenThereIsLittle) {
  const CalibrationMachine machine{.cpu = false, .threads = 8, .batched = true, .isa_limits = {}};
  EXPECT_EQ(names_of(plan_calibration(machine, 5)),
            (Names{"as recorded", "one input at a time", "as recorded, repeat 2",
                   "one input at a time, repeat 2", "as recorded, repeat 3"}));
}

TEST(PlanCalibration, NeverLimitsTheCpuOfAGpu) {
  const CalibrationMachine machine{
      .cpu = false, .threads = 8, .batched = true, .isa_limits = {"avx2"}};
  for (const CalibrationVariant& variant : plan_calibration(machine, 12)) {
    EXPECT_EQ(variant.cpu_isa, "auto");
    EXPECT_EQ(variant.threads, 0);
  }
}

TEST(CalibrationNotes, SayWhatWasNotVaried) {
  EXPECT_TRUE(
      calibration_notes({.cpu = true, .threads = 2, .batched = true, .isa_limits = {"avx2"}})
          .empty());
  EXPECT_EQ(
      calibration_notes({.cpu = true, .threads = 1, .batched = false, .isa_limits = {}}).size(),
      3U);
  EXPECT_EQ(
      calibration_notes({.cpu = false, .threads = 8, .batched = true, .isa_limits = {}}).size(),
      1U);
}

// Processes on a machine whose noise depends on the instruction set alone.
class FakeWorkers {
 public:
  ProcessResult operator()(std::string_view text) {
    tasks.push_back(parse_task(text));
    const WorkerTask& task = tasks.back();
    if (task.action == fail_action) return failure;
    WorkerAnswer answer;
    if (task.action == WorkerAction::kMeasure) answer.measurement = measured(task.request);
    return {0, noise_on_stdout + write_answer(answer), ""};
  }

  [[nodiscard]] const Request& request(std::size_t index) const { return tasks.at(index).request; }

  std::vector<WorkerTask> tasks;
  std::optional<WorkerAction> fail_action;
  ProcessResult failure;
  std::string noise_on_stdout;
  std::uint64_t groups = 1;
  bool shows_noise = false;
  double flips_p = 0.5;

 private:
  [[nodiscard]] WorkerMeasurement measured(const Request& request) const {
    const bool avx2 = request.cpu_isa == "avx2";
    const double noise = avx2 ? 0.003 : 0.0;
    analysis::Figures figures = {
        {"prefill.tokens.hard_flips", 0}, {"prefill.tokens.nonfinite", 0},
        {"prefill.kv.key.nonfinite", 0},  {"inject.tokens.compared", 50},
        {"inject.kl.p99", noise},         {"inject.tokens.tie_rate", avx2 ? 0.06 : 0.0},
        {"forced.kl.p99", noise * 2}};
    if (shows_noise) {
      figures.insert({{"inject.logits.noise", noise},
                      {"inject.logits.relative_noise", noise},
                      {"inject.kl_estimate.p99", noise * 2},
                      {"inject.tokens.flips_p", flips_p}});
    }
    return {.figures = std::move(figures),
            .largest_gap_ulps = avx2 ? 3.0 : 0.0,
            .largest_gap_noise = avx2 ? 6.5 : 0.0,
            .most_rows = 4,
            .groups = groups,
            .cache = "int8",
            .device = {.label = "CPU",
                       .type = "cpu",
                       .name = "Some CPU",
                       .torch_version = "2.13.0",
                       .provenance_json = R"({"threads": 2})"},
            .model = {.id = "org/Tiny",
                      .slug = "org_tiny",
                      .path = "m.pt",
                      .architecture = "Llama",
                      .dtype = "bfloat16",
                      .num_layers = 2,
                      .weights_sha256 = "ab",
                      .config_sha256 = "cd",
                      .graph_sha256 = "ef"}};
  }
};

class Told final : public Observer {
 public:
  void progress(const std::string& what) override { said.push_back(what); }
  void calibration(const CalibrationResult& each) override { result = each; }

  Names said;
  CalibrationResult result;
};

class CalibrationRuns : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    request_.run.models = {"m.pt"};
    request_.run.prompts = {text_prompt("x", "--prompt 1")};
    request_.target = "gate.json";
    request_.runs = 5;
    request_.cpuinfo = "cpuinfo";
    write("cpuinfo", kAvx512Bf16);
  }

  json calibrate() {
    const Services services{.open_engine = {},
                            .encoder = {},
                            .now = [] { return WallTime(std::chrono::seconds(1767323045)); },
                            .worker = [this](std::string_view task) { return workers_(task); }};
    run_calibration(request_, services, told_);
    return json::parse(read_text_file("gate.json", 1U << 20U));
  }

  Error refusal() {
    return error_of([&] { static_cast<void>(calibrate()); });
  }

  CalibrationRequest request_;
  FakeWorkers workers_;
  Told told_;
};

TEST_F(CalibrationRuns, RecordsAReferenceAndReplaysItInEveryVariant) {
  static_cast<void>(calibrate());
  ASSERT_EQ(workers_.tasks.size(), 6U);
  EXPECT_EQ(workers_.tasks[0].action, WorkerAction::kRecord);
  EXPECT_EQ(workers_.request(0).prompts.at(0).text, "x");
  const std::string reference = workers_.request(0).base_dir;
  EXPECT_FALSE(reference.empty());
  EXPECT_FALSE(std::filesystem::exists(reference));
  for (std::size_t i = 1; i < workers_.tasks.size(); ++i) {
    EXPECT_EQ(workers_.tasks[i].action, WorkerAction::kMeasure);
    EXPECT_EQ(workers_.request(i).from, reference);
    EXPECT_EQ(workers_.request(i).replay_modes,
              (std::vector{format::ReplayMode::kInject, format::ReplayMode::kForced}));
    EXPECT_EQ(workers_.request(i).models, Names{"m.pt"});
  }
  EXPECT_EQ(workers_.request(1).cpu_isa, "auto");
  EXPECT_EQ(workers_.request(2).cpu_isa, "avx2");
  EXPECT_EQ(workers_.request(4).threads, 1);
  EXPECT_EQ(workers_.request(4).replay_shape, ReplayShape::kRecorded);
  EXPECT_EQ(workers_.request(5).replay_shape, ReplayShape::kSingle);
  EXPECT_EQ(told_.said.front(), "recording the reference");
  EXPECT_EQ(told_.said[2], "replay 2/5: avx2");
  EXPECT_EQ(told_.result.runs.size(), 5U);
  EXPECT_EQ(told_.result.model_id, "org/Tiny");
}

TEST_F(CalibrationRuns, ReplaysGivenRecordingsWithoutRecordingAnything) {
  request_.run.from = "CPU";
  request_.run.prompts.clear();
  static_cast<void>(calibrate());
  EXPECT_EQ(workers_.tasks.front().action, WorkerAction::kMeasure);
  EXPECT_EQ(workers_.request(0).from, "CPU");
  EXPECT_EQ(workers_.request(0).request_number, std::nullopt);
  EXPECT_EQ(told_.result.reference, "CPU");
}

// Prompts of a configuration, which are no mistake beside --from.
TEST_F(CalibrationRuns, PromptsBesideRecordingsSayHowManyInputsThereAre) {
  request_.run.from = "CPU";
  static_cast<void>(calibrate());
  EXPECT_EQ(workers_.request(0).request_number, 1U);
  EXPECT_TRUE(workers_.request(0).prompts.empty());
}

// What a configuration says of other recordings does not hold for those just made.
TEST_F(CalibrationRuns, ReplaysAllThatItRecorded) {
  request_.run.from_batch_size = 7;
  request_.run.request_number = 3;
  request_.run.batch_sizes = {1, 2};
  static_cast<void>(calibrate());
  EXPECT_EQ(workers_.request(0).request_number, 3U);
  EXPECT_EQ(workers_.request(1).from_batch_size, std::nullopt);
  EXPECT_EQ(workers_.request(1).batch_sizes, (std::vector<std::uint64_t>{1, 2}));
}

TEST_F(CalibrationRuns, UsersOwnDeviceSettingsHoldUnlessAVariantSetsThem) {
  request_.run.cpu_isa = "avx512";
  request_.run.threads = 3;
  static_cast<void>(calibrate());
  EXPECT_EQ(workers_.request(0).cpu_isa, "avx512");
  EXPECT_EQ(workers_.request(1).threads, 3);
  EXPECT_EQ(workers_.request(2).cpu_isa, "avx2");
  EXPECT_EQ(workers_.request(2).threads, 3);
}

TEST_F(CalibrationRuns, GateFileHasRulesToleranceAndEvidence) {
  const json file = calibrate();
  EXPECT_EQ(file["name"], "calibrated-org_tiny-CPU");
  EXPECT_EQ(file["near_tie_ulps"], 3.0);
  EXPECT_FALSE(file.contains("base"));
  EXPECT_DOUBLE_EQ(file["rules"]["inject.kl.p99"]["max"].get<double>(), 0.006);
  EXPECT_DOUBLE_EQ(file["rules"]["inject.tokens.tie_rate"]["max"].get<double>(), 0.12);
  const json& evidence = file["evidence"];
  EXPECT_EQ(evidence["created_utc"], "2026-01-02T03:04:05Z");
  EXPECT_EQ(evidence["kvtool_version"], KVTOOL_VERSION);
  EXPECT_EQ(evidence["device"]["name"], "Some CPU");
  EXPECT_EQ(evidence["device"]["provenance"]["threads"], 2);
  EXPECT_EQ(evidence["model"]["weights_sha256"], "ab");
  EXPECT_EQ(evidence["model"]["config_sha256"], "cd");
  ASSERT_EQ(evidence["runs"].size(), 5U);
  EXPECT_EQ(evidence["runs"][1]["settings"],
            (json{{"cpu_isa", "avx2"}, {"threads", 0}, {"batch", "recorded"}}));
  EXPECT_EQ(evidence["runs"][1]["figures"]["inject.kl.p99"], 0.003);
}

TEST_F(CalibrationRuns, GateFileOfRecordingsWithASampleIsJudgedByNoise) {
  workers_.shows_noise = true;
  const json file = calibrate();
  EXPECT_EQ(file["noise_z"], 7.0);
  EXPECT_FALSE(file.contains("near_tie_ulps"));
  EXPECT_DOUBLE_EQ(file["rules"]["inject.logits.relative_noise"]["max"].get<double>(), 0.006);
  EXPECT_DOUBLE_EQ(file["rules"]["inject.kl_estimate.p99"]["max"].get<double>(), 0.012);
  EXPECT_FALSE(file["rules"].contains("inject.kl.p99"));
  EXPECT_FALSE(file["rules"].contains("inject.tokens.tie_rate"));
  EXPECT_EQ(file["evidence"]["runs"][1]["largest_gap_noise"], 6.5);
}

// More flips than noise makes are no noise, and no fault of the program either.
TEST_F(CalibrationRuns, RefusesARunThatBreaksAnInheritedRule) {
  workers_.shows_noise = true;
  workers_.flips_p = 1e-9;
  const Error error = refusal();
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_THAT(error.what(),
              HasSubstr("the replay \"as recorded\" breaks a rule that every gate holds, so that "
                        "it shows more than rounding noise: inject.tokens.flips_p: measured 1e-09, "
                        "allowed at least 1e-06"));
  EXPECT_FALSE(std::filesystem::exists("gate.json"));
}

TEST_F(CalibrationRuns, WorkersErrorKeepsItsCodeItsMessageAndItsSettings) {
  workers_.fail_action = WorkerAction::kRecord;
  workers_.failure.output = write_answer(
      {.error = WorkerError{ErrorCode::kUsage, "no model: give one with " + setting("model")},
       .measurement = std::nullopt});
  const Error error = refusal();
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_EQ(error.message(),
            "recording the reference failed: no model: give one with " + setting("model"));
  EXPECT_FALSE(std::filesystem::exists("gate.json"));
}

// An exception that is no kvtool::Error, such as no memory: it ends the worker.
TEST_F(CalibrationRuns, WorkerThatEndsWithoutAnAnswerIsToldByItsStatusAndLog) {
  workers_.fail_action = WorkerAction::kRecord;
  workers_.failure = {5, "", "kvtool: warning: w\nkvtool: error: out of memory\n"};
  const Error error = refusal();
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_STREQ(error.what(), "recording the reference failed: out of memory");
}

TEST_F(CalibrationRuns, WorkerThatDiesIsAnErrorOfTheEnvironment) {
  workers_.fail_action = WorkerAction::kMeasure;
  workers_.failure = {137, "", "Killed"};
  const Error error = refusal();
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_STREQ(error.what(), "the replay \"as recorded\" failed with exit status 137: Killed");
}

TEST_F(CalibrationRuns, BugInAWorkerStaysABug) {
  workers_.fail_action = WorkerAction::kMeasure;
  workers_.failure = {70, "", "kvtool: error: a bug in kvtool: vector::at\n"};
  const Error error = refusal();
  EXPECT_EQ(error.code(), ErrorCode::kInternal);
  EXPECT_STREQ(error.what(), "the replay \"as recorded\" failed: a bug in kvtool: vector::at");
}

TEST_F(CalibrationRuns, WorkerThatWasInterruptedInterrupts) {
  workers_.fail_action = WorkerAction::kMeasure;
  workers_.failure = {130, "", "kvtool: error: interrupted\n"};
  EXPECT_THROW(static_cast<void>(calibrate()), Interrupted);
}

TEST_F(CalibrationRuns, WhatLibrariesWriteToStandardOutputIsNoAnswer) {
  workers_.noise_on_stdout = "onednn_verbose,info\n";
  EXPECT_EQ(calibrate()["near_tie_ulps"], 3.0);
  workers_.fail_action = WorkerAction::kMeasure;
  workers_.failure = {0, "onednn_verbose,info\n", ""};
  request_.run.force = true;
  EXPECT_THAT(refusal().what(), HasSubstr("the replay \"as recorded\" failed: its process gave "
                                          "no answer"));
}

TEST_F(CalibrationRuns, TakesRecordingsOfOneDevice) {
  workers_.groups = 2;
  const Error error = refusal();
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), HasSubstr("there are 2 such groups"));
}

}  // namespace
}  // namespace kvtool::run
