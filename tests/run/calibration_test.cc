#include "kvtool/run/calibration.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <map>
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

CalibrationOutcome outcome(const std::string& name, analysis::Figures figures,
                           double gap_ulps = 0.0) {
  CalibrationOutcome result;
  result.run.name = name;
  result.run.figures = std::move(figures);
  result.largest_gap_ulps = gap_ulps;
  return result;
}

const CalibratedRule& rule_of(const CalibratedGate& gate, const std::string& figure) {
  const auto found = std::find_if(gate.rules.begin(), gate.rules.end(),
                                  [&](const auto& rule) { return rule.rule.figure == figure; });
  if (found == gate.rules.end()) throw std::runtime_error("no rule " + figure);
  return *found;
}

TEST(CalibrateGate, AllowsTheWorstOfAllRunsTimesTheFactor) {
  const CalibratedGate gate = calibrate_gate(
      {outcome("a", {{"inject.kl.p99", 0.001}}), outcome("b", {{"inject.kl.p99", 0.004}}),
       outcome("c", {{"inject.kl.p99", 0.002}})},
      2.0);
  const CalibratedRule& rule = rule_of(gate, "inject.kl.p99");
  EXPECT_DOUBLE_EQ(*rule.rule.max, 0.008);
  EXPECT_FALSE(rule.rule.min);
  EXPECT_EQ(rule.noise, 0.004);
  EXPECT_EQ(rule.run, "b");
}

// 0.99 is 0.01 below 1; three times that are 0.03... and 2 % are the least.
TEST(CalibrateGate, LimitsWhatShouldBeHighFromBelow) {
  const CalibratedGate gate =
      calibrate_gate({outcome("a", {{"inject.logits.top5_agreement", 1.0}}),
                      outcome("b", {{"inject.logits.top5_agreement", 0.99}})},
                     3.0);
  const CalibratedRule& rule = rule_of(gate, "inject.logits.top5_agreement");
  EXPECT_NEAR(*rule.rule.min, 0.97, 1e-4);
  EXPECT_LE(*rule.rule.min, 0.97);
  EXPECT_FALSE(rule.rule.max);
  EXPECT_EQ(rule.run, "b");
}

TEST(CalibrateGate, RoundsOutwardToThreeDigits) {
  const auto bound = [](double noise) {
    return *rule_of(calibrate_gate({outcome("a", {{"inject.kl.p99", noise}})}, 1.0),
                    "inject.kl.p99")
                .rule.max;
  };
  EXPECT_DOUBLE_EQ(bound(0.0012341), 0.00124);
  EXPECT_DOUBLE_EQ(bound(0.00123), 0.00123);
  EXPECT_DOUBLE_EQ(bound(0.9999), 1.0);
  EXPECT_DOUBLE_EQ(bound(123.4), 124.0);
  for (double noise = 1e-7; noise < 10.0; noise *= 1.37) EXPECT_GE(bound(noise), noise);
}

TEST(CalibrateGate, NoNoiseLeavesTheLeastAllowance) {
  const CalibratedGate gate = calibrate_gate(
      {outcome("a", {{"inject.kl.p99", 0.0}, {"inject.tokens.tie_rate", 0.0}})}, 2.0);
  EXPECT_DOUBLE_EQ(*rule_of(gate, "inject.kl.p99").rule.max, 1e-9);
  EXPECT_DOUBLE_EQ(*rule_of(gate, "inject.tokens.tie_rate").rule.max, 0.02);
  ASSERT_EQ(gate.notes.size(), 1U);
  EXPECT_NE(gate.notes[0].find("no variation changed a single bit"), std::string::npos);
}

// A budget of ties has room for one anyway (docs/gates.md); two are a rate.
TEST(CalibrateGate, SingleTieIsNoRate) {
  const auto bound = [](double ties, double compared) {
    const CalibratedGate gate =
        calibrate_gate({outcome("a", {{"prefill.tokens.tie_rate", ties / compared},
                                      {"prefill.tokens.compared", compared}})},
                       2.0);
    return *rule_of(gate, "prefill.tokens.tie_rate").rule.max;
  };
  EXPECT_DOUBLE_EQ(bound(1, 4), 0.02);
  EXPECT_DOUBLE_EQ(bound(2, 4), 1.0);
  EXPECT_DOUBLE_EQ(bound(12, 1000), 0.024);
}

// A rule of a figure that is sometimes missing would fail whenever it is.
TEST(CalibrateGate, LeavesOutWhatARunDidNotMeasure) {
  const CalibratedGate gate =
      calibrate_gate({outcome("a", {{"inject.kl.p99", 0.1}}),
                      outcome("b", {{"inject.kl.p99", 0.1}, {"forced.amplification", 3.0}})},
                     2.0);
  ASSERT_EQ(gate.rules.size(), 1U);
  EXPECT_EQ(gate.rules[0].rule.figure, "inject.kl.p99");
}

TEST(CalibrateGate, InfiniteNoiseHasNoBound) {
  const CalibratedGate gate = calibrate_gate(
      {outcome("a",
               {{"inject.kv.key.layer_max.relative_l2", std::numeric_limits<double>::infinity()},
                {"inject.kl.p99", 0.1}})},
      2.0);
  EXPECT_EQ(gate.rules.size(), 1U);
  ASSERT_EQ(gate.notes.size(), 1U);
}

TEST(CalibrateGate, NearTiesReachAsFarAsTheFlipsThatWereSeen) {
  EXPECT_EQ(
      calibrate_gate({outcome("a", {}, 1.0), outcome("b", {}, 0.0)}, 2.0).flip_bounds.near_tie_ulps,
      2.0);
  EXPECT_EQ(
      calibrate_gate({outcome("a", {}, 2.5), outcome("b", {}, 4.0)}, 2.0).flip_bounds.near_tie_ulps,
      4.0);
}

TEST(CalibrateGate, RefusesWhatIsNoNoise) {
  for (const char* figure :
       {"forced.tokens.hard_flips", "inject.tokens.nonfinite", "prefill.kv.key.nonfinite"}) {
    const Error error =
        error_of([&] { (void)calibrate_gate({outcome("avx2", {{figure, 1.0}})}, 2.0); });
    EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
    EXPECT_NE(std::string(error.what()).find(figure), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("avx2"), std::string::npos);
  }
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

 private:
  [[nodiscard]] WorkerMeasurement measured(const Request& request) const {
    const bool avx2 = request.cpu_isa == "avx2";
    const double noise = avx2 ? 0.003 : 0.0;
    return {.figures = {{"prefill.tokens.hard_flips", 0},
                        {"prefill.tokens.nonfinite", 0},
                        {"prefill.kv.key.nonfinite", 0},
                        {"inject.tokens.compared", 50},
                        {"inject.kl.p99", noise},
                        {"inject.tokens.tie_rate", avx2 ? 0.06 : 0.0},
                        {"forced.kl.p99", noise * 2}},
            .largest_gap_ulps = avx2 ? 3.0 : 0.0,
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
