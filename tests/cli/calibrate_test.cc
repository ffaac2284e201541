#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <map>

#include "cli_fixture.h"
#include "kvtool/run/calibration.h"
#include "kvtool/run/calibration_runs.h"
#include "support/error_of.h"

namespace kvtool::cli {
namespace {

using nlohmann::json;
using Names = std::vector<std::string>;

constexpr const char* kAvx512Bf16 = "processor : 0\nflags\t: fpu sse4_1 avx2 avx512f avx512_bf16\n";
constexpr const char* kAvx2 = "flags : fpu sse4_1 avx avx2\nbugs : avx512f\n";

TEST(WeakerInstructionSets, AreThoseOfTheCpuBelowWhatRunsAnyway) {
  EXPECT_EQ(run::weaker_instruction_sets(kAvx512Bf16, "auto"), (Names{"avx512", "avx2"}));
  EXPECT_EQ(run::weaker_instruction_sets(kAvx512Bf16, "avx512"), (Names{"avx2"}));
  EXPECT_EQ(run::weaker_instruction_sets(kAvx2, "auto"), (Names{"sse41"}));
  EXPECT_EQ(run::weaker_instruction_sets("flags : sse4_1", "auto"), Names{});
  EXPECT_EQ(run::weaker_instruction_sets("Features : fp asimd", "auto"), Names{});
  EXPECT_EQ(run::weaker_instruction_sets("", "auto"), Names{});
}

Names names_of(const std::vector<run::CalibrationVariant>& variants) {
  Names names;
  for (const run::CalibrationVariant& variant : variants) names.push_back(variant.name());
  return names;
}

TEST(PlanCalibration, VariesEverySettingAloneAndThenTogether) {
  const run::CalibrationMachine machine{
      .cpu = true, .threads = 2, .batched = true, .isa_limits = {"avx512", "avx2"}};
  EXPECT_EQ(names_of(run::plan_calibration(machine, 8)),
            (Names{"as recorded", "avx2", "avx512", "1 thread", "one input at a time",
                   "avx2, 1 thread", "avx512, 1 thread", "avx2, one input at a time"}));
}

TEST(PlanCalibration, RepeatsWhatThereIsWhenThereIsLittle) {
  const run::CalibrationMachine machine{
      .cpu = false, .threads = 8, .batched = true, .isa_limits = {}};
  EXPECT_EQ(names_of(run::plan_calibration(machine, 5)),
            (Names{"as recorded", "one input at a time", "as recorded, repeat 2",
                   "one input at a time, repeat 2", "as recorded, repeat 3"}));
}

TEST(PlanCalibration, NeverLimitsTheCpuOfAGpu) {
  const run::CalibrationMachine machine{
      .cpu = false, .threads = 8, .batched = true, .isa_limits = {"avx2"}};
  for (const run::CalibrationVariant& variant : run::plan_calibration(machine, 12)) {
    EXPECT_EQ(variant.cpu_isa, "auto");
    EXPECT_EQ(variant.threads, 0);
  }
}

TEST(CalibrationNotes, SayWhatWasNotVaried) {
  EXPECT_TRUE(
      run::calibration_notes({.cpu = true, .threads = 2, .batched = true, .isa_limits = {"avx2"}})
          .empty());
  EXPECT_EQ(run::calibration_notes({.cpu = true, .threads = 1, .batched = false, .isa_limits = {}})
                .size(),
            3U);
  EXPECT_EQ(run::calibration_notes({.cpu = false, .threads = 8, .batched = true, .isa_limits = {}})
                .size(),
            1U);
}

run::CalibrationOutcome outcome(const std::string& name, analysis::Figures figures,
                                double gap_ulps = 0.0) {
  run::CalibrationOutcome result;
  result.run.name = name;
  result.run.figures = std::move(figures);
  result.largest_gap_ulps = gap_ulps;
  return result;
}

const run::CalibratedRule& rule_of(const run::CalibratedGate& gate, const std::string& figure) {
  const auto found = std::find_if(gate.rules.begin(), gate.rules.end(),
                                  [&](const auto& rule) { return rule.rule.figure == figure; });
  if (found == gate.rules.end()) throw std::runtime_error("no rule " + figure);
  return *found;
}

TEST(CalibrateGate, AllowsTheWorstOfAllRunsTimesTheFactor) {
  const run::CalibratedGate gate = run::calibrate_gate(
      {outcome("a", {{"inject.kl.p99", 0.001}}), outcome("b", {{"inject.kl.p99", 0.004}}),
       outcome("c", {{"inject.kl.p99", 0.002}})},
      2.0);
  const run::CalibratedRule& rule = rule_of(gate, "inject.kl.p99");
  EXPECT_DOUBLE_EQ(*rule.rule.max, 0.008);
  EXPECT_FALSE(rule.rule.min);
  EXPECT_EQ(rule.noise, 0.004);
  EXPECT_EQ(rule.run, "b");
}

// 0.99 is 0.01 below 1; three times that are 0.03... and 2 % are the least.
TEST(CalibrateGate, LimitsWhatShouldBeHighFromBelow) {
  const run::CalibratedGate gate =
      run::calibrate_gate({outcome("a", {{"inject.logits.top5_agreement", 1.0}}),
                           outcome("b", {{"inject.logits.top5_agreement", 0.99}})},
                          3.0);
  const run::CalibratedRule& rule = rule_of(gate, "inject.logits.top5_agreement");
  EXPECT_NEAR(*rule.rule.min, 0.97, 1e-4);
  EXPECT_LE(*rule.rule.min, 0.97);
  EXPECT_FALSE(rule.rule.max);
  EXPECT_EQ(rule.run, "b");
}

TEST(CalibrateGate, RoundsOutwardToThreeDigits) {
  const auto bound = [](double noise) {
    return *rule_of(run::calibrate_gate({outcome("a", {{"inject.kl.p99", noise}})}, 1.0),
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
  const run::CalibratedGate gate = run::calibrate_gate(
      {outcome("a", {{"inject.kl.p99", 0.0}, {"inject.tokens.tie_rate", 0.0}})}, 2.0);
  EXPECT_DOUBLE_EQ(*rule_of(gate, "inject.kl.p99").rule.max, 1e-9);
  EXPECT_DOUBLE_EQ(*rule_of(gate, "inject.tokens.tie_rate").rule.max, 0.02);
  ASSERT_EQ(gate.notes.size(), 1U);
  EXPECT_NE(gate.notes[0].find("no variation changed a single bit"), std::string::npos);
}

// A budget of ties has room for one anyway (docs/gates.md); two are a rate.
TEST(CalibrateGate, SingleTieIsNoRate) {
  const auto bound = [](double ties, double compared) {
    const run::CalibratedGate gate =
        run::calibrate_gate({outcome("a", {{"prefill.tokens.tie_rate", ties / compared},
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
  const run::CalibratedGate gate =
      run::calibrate_gate({outcome("a", {{"inject.kl.p99", 0.1}}),
                           outcome("b", {{"inject.kl.p99", 0.1}, {"forced.amplification", 3.0}})},
                          2.0);
  ASSERT_EQ(gate.rules.size(), 1U);
  EXPECT_EQ(gate.rules[0].rule.figure, "inject.kl.p99");
}

TEST(CalibrateGate, InfiniteNoiseHasNoBound) {
  const run::CalibratedGate gate = run::calibrate_gate(
      {outcome("a",
               {{"inject.kv.key.layer_max.relative_l2", std::numeric_limits<double>::infinity()},
                {"inject.kl.p99", 0.1}})},
      2.0);
  EXPECT_EQ(gate.rules.size(), 1U);
  ASSERT_EQ(gate.notes.size(), 1U);
}

TEST(CalibrateGate, NearTiesReachAsFarAsTheFlipsThatWereSeen) {
  EXPECT_EQ(run::calibrate_gate({outcome("a", {}, 1.0), outcome("b", {}, 0.0)}, 2.0).near_tie_ulps,
            2.0);
  EXPECT_EQ(run::calibrate_gate({outcome("a", {}, 2.5), outcome("b", {}, 4.0)}, 2.0).near_tie_ulps,
            4.0);
}

TEST(CalibrateGate, RefusesWhatIsNoNoise) {
  for (const char* figure :
       {"forced.tokens.hard_flips", "inject.tokens.nonfinite", "prefill.kv.key.nonfinite"}) {
    const Error error =
        error_of([&] { (void)run::calibrate_gate({outcome("avx2", {{figure, 1.0}})}, 2.0); });
    EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
    EXPECT_NE(std::string(error.what()).find(figure), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("avx2"), std::string::npos);
  }
}

// Replays of a machine whose noise depends on the instruction set alone.
class FakeKvtool {
 public:
  ProcessResult operator()(const std::vector<std::string>& arguments) {
    calls.push_back(arguments);
    if (arguments[0] == fail_command) return {fail_status, "", fail_log};
    if (arguments[0] != "save") {
      std::ofstream(value_of(arguments, "--json")) << report_of(arguments).dump();
    }
    return {};
  }

  static std::string value_of(const std::vector<std::string>& arguments,
                              const std::string& option) {
    const auto found = std::find(arguments.begin(), arguments.end(), option);
    return found == arguments.end() ? "" : *(found + 1);
  }

  std::vector<std::vector<std::string>> calls;
  std::string fail_command;
  int fail_status = 0;
  std::string fail_log;

 private:
  static json report_of(const std::vector<std::string>& arguments) {
    const bool avx2 = value_of(arguments, "--cpu-isa") == "avx2";
    const double noise = avx2 ? 0.003 : 0.0;
    json mismatches = json::array();
    if (avx2) mismatches.push_back({{"class", "near_tie"}, {"gap", 0.375}, {"ulp", 0.125}});
    json figures = {{"prefill.tokens.hard_flips", 0}, {"prefill.tokens.nonfinite", 0},
                    {"prefill.kv.key.nonfinite", 0},  {"inject.tokens.compared", 50},
                    {"inject.kl.p99", noise},         {"inject.tokens.tie_rate", avx2 ? 0.06 : 0.0},
                    {"forced.kl.p99", noise * 2}};
    return {{"device",
             {{"label", "CPU"},
              {"type", "cpu"},
              {"name", "Some CPU"},
              {"torch_version", "2.13.0"},
              {"provenance", {{"threads", 2}}}}},
            {"models",
             {{{"id", "org/Tiny"},
               {"slug", "org_tiny"},
               {"path", "m.pt"},
               {"architecture", "Llama"},
               {"dtype", "bfloat16"},
               {"layers", 2},
               {"weights_sha256", "ab"}}}},
            {"results", {{{"rows", 4}, {"replay", {{"modes", {{{"mismatches", mismatches}}}}}}}}},
            {"verdicts", {{{"figures", figures}}}}};
  }
};

class CalibrationRuns : public FolderTest {
 protected:
  run::Calibration calibrate() {
    request_.scratch = ".";
    request_.cpuinfo = kAvx512Bf16;
    request_.replay_arguments = {"--model", "m.pt"};
    request_.save_arguments = {"--model", "m.pt", "--prompt", "x"};
    return run::run_calibration(
        request_, [this](const auto& words) { return kvtool_(words); },
        [this](const std::string& what) { progress_.push_back(what); });
  }

  run::CalibrationRequest request_;
  FakeKvtool kvtool_;
  Names progress_;
};

TEST_F(CalibrationRuns, RecordsAReferenceAndReplaysItInEveryVariant) {
  const run::Calibration calibration = calibrate();
  ASSERT_EQ(kvtool_.calls.size(), 6U);
  EXPECT_EQ(kvtool_.calls[0][0], "save");
  const std::string reference = FakeKvtool::value_of(kvtool_.calls[0], "--out");
  for (std::size_t i = 1; i < kvtool_.calls.size(); ++i) {
    EXPECT_EQ(kvtool_.calls[i][0], "replay");
    EXPECT_EQ(FakeKvtool::value_of(kvtool_.calls[i], "--from"), reference);
    EXPECT_EQ(FakeKvtool::value_of(kvtool_.calls[i], "--mode"), "inject,forced");
    EXPECT_EQ(FakeKvtool::value_of(kvtool_.calls[i], "--model"), "m.pt");
  }
  EXPECT_EQ(FakeKvtool::value_of(kvtool_.calls[1], "--cpu-isa"), "auto");
  EXPECT_EQ(FakeKvtool::value_of(kvtool_.calls[2], "--cpu-isa"), "avx2");
  EXPECT_EQ(FakeKvtool::value_of(kvtool_.calls[4], "--threads"), "1");
  EXPECT_EQ(FakeKvtool::value_of(kvtool_.calls[5], "--batch"), "1");
  EXPECT_EQ(progress_.front(), "recording the reference");
  EXPECT_EQ(progress_[2], "replay 2/5: avx2");
  EXPECT_EQ(calibration.result.runs.size(), 5U);
  EXPECT_EQ(calibration.result.model_id, "org/Tiny");
}

TEST_F(CalibrationRuns, ReplaysGivenRecordingsWithoutRecordingAnything) {
  request_.from = "CPU";
  const run::Calibration calibration = calibrate();
  EXPECT_EQ(kvtool_.calls.front()[0], "replay");
  EXPECT_EQ(FakeKvtool::value_of(kvtool_.calls.front(), "--from"), "CPU");
  EXPECT_EQ(calibration.result.reference, "CPU");
}

TEST_F(CalibrationRuns, UsersOwnDeviceSettingsHoldUnlessAVariantSetsThem) {
  request_.cpu_isa = "avx512";
  request_.threads = 3;
  static_cast<void>(calibrate());
  EXPECT_EQ(FakeKvtool::value_of(kvtool_.calls[0], "--cpu-isa"), "avx512");
  EXPECT_EQ(FakeKvtool::value_of(kvtool_.calls[1], "--threads"), "3");
  EXPECT_EQ(FakeKvtool::value_of(kvtool_.calls[2], "--cpu-isa"), "avx2");
  EXPECT_EQ(FakeKvtool::value_of(kvtool_.calls[2], "--threads"), "3");
}

TEST_F(CalibrationRuns, GateFileHasRulesToleranceAndEvidence) {
  request_.created_utc = "2026-01-02T03:04:05Z";
  request_.kvtool_version = "0.2.0";
  const json file = calibrate().gate_file;
  EXPECT_EQ(file["name"], "calibrated-org_tiny-CPU");
  EXPECT_EQ(file["near_tie_ulps"], 3.0);
  EXPECT_FALSE(file.contains("base"));
  EXPECT_DOUBLE_EQ(file["rules"]["inject.kl.p99"]["max"].get<double>(), 0.006);
  EXPECT_DOUBLE_EQ(file["rules"]["inject.tokens.tie_rate"]["max"].get<double>(), 0.12);
  const json& evidence = file["evidence"];
  EXPECT_EQ(evidence["created_utc"], "2026-01-02T03:04:05Z");
  EXPECT_EQ(evidence["kvtool_version"], "0.2.0");
  EXPECT_EQ(evidence["device"]["name"], "Some CPU");
  EXPECT_EQ(evidence["model"]["weights_sha256"], "ab");
  ASSERT_EQ(evidence["runs"].size(), 5U);
  EXPECT_EQ(evidence["runs"][1]["settings"],
            (json{{"cpu_isa", "avx2"}, {"threads", 0}, {"batch", "recorded"}}));
  EXPECT_EQ(evidence["runs"][1]["figures"]["inject.kl.p99"], 0.003);
}

TEST_F(CalibrationRuns, ChildsErrorKeepsItsStatusAndMessage) {
  kvtool_.fail_command = "save";
  kvtool_.fail_status = 2;
  kvtool_.fail_log = "kvtool: warning: w\nkvtool: error: no prompts\n";
  const Error error = error_of([&] { static_cast<void>(calibrate()); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_STREQ(error.what(), "recording the reference failed: no prompts");
}

TEST_F(CalibrationRuns, ChildThatDiesIsAnErrorOfTheEnvironment) {
  kvtool_.fail_command = "replay";
  kvtool_.fail_status = 137;
  kvtool_.fail_log = "Killed";
  const Error error = error_of([&] { static_cast<void>(calibrate()); });
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_STREQ(error.what(), "the replay \"as recorded\" failed with exit status 137: Killed");
}

class CalibrateCommand : public CommandTest {};

TEST_F(CalibrateCommand, ChecksItsTargetBeforeItRunsAnything) {
  write("gate.json", "{}");
  EXPECT_EQ(run("calibrate").status, 2);
  const CommandResult exists = run("calibrate --model models/tiny.pt --from CPU --out gate.json");
  EXPECT_EQ(exists.status, 2);
  EXPECT_NE(exists.err.find("gate.json exists already"), std::string::npos) << exists.err;
  const CommandResult folder = run("calibrate --from CPU --out missing/gate.json");
  EXPECT_EQ(folder.status, 2);
  EXPECT_NE(folder.err.find("the folder missing does not exist"), std::string::npos) << folder.err;
}

TEST_F(CalibrateCommand, TakesOneModelAndOneSourceOfInputs) {
  const CommandResult models =
      run("calibrate --model models/tiny.pt --model b.pt --from CPU --out gate.json");
  EXPECT_EQ(models.status, 2);
  EXPECT_NE(models.err.find("calibrate takes one model"), std::string::npos) << models.err;
  const CommandResult both = run("calibrate --from CPU --out gate.json --prompt", {"hello"});
  EXPECT_EQ(both.status, 2);
  EXPECT_NE(both.err.find("--from has its own prompts"), std::string::npos) << both.err;
}

TEST_F(CalibrateCommand, NeedsFiveRunsAndAFactorOfAtLeastOne) {
  EXPECT_EQ(run("calibrate --from CPU --out gate.json --runs 4").status, 2);
  EXPECT_EQ(run("calibrate --from CPU --out gate.json --safety 0.5").status, 2);
}

}  // namespace
}  // namespace kvtool::cli
