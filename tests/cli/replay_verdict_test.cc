// How a replay is judged: mismatches, gates, what is not finite.
#include <gmock/gmock.h>

#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "kvtool/format/reader.h"
#include "save_replay_fixture.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

using ReplayVerdict = SaveReplay;

TEST_F(ReplayVerdict, GenerationsThatEndInThePrefillPassEveryGateAndSaySo) {
  save(2, "--out ref_cache", 1);
  for (const char* gate : {"same-device", "fp32-cross", "16bit-cross", "fp8"}) {
    const json report =
        replay_json("--from CPU --mode inject,forced,free --gate " + std::string(gate));
    const json& verdict = report["verdicts"][0];
    EXPECT_THAT(verdict["finding"]["text"].get<std::string>(), HasSubstr("no step to judge"));
    std::size_t skipped = 0;
    for (const json& rule : verdict["gate"]["rules"]) {
      skipped += rule["unjudged"] == "no step to judge" ? 1 : 0;
      EXPECT_FALSE(rule["missing"].get<bool>()) << rule;
    }
    EXPECT_GT(skipped, 0U);
  }
  EXPECT_THAT(run("replay --from CPU --gate same-device").out, HasSubstr("SKIPPED"));
  engine_.perturb = [](std::uint64_t, format::StepStats& stats) { stats.top_logits[0] += 1.0F; };
  replay_json("--from CPU --gate same-device", 1);
}

TEST_F(ReplayVerdict, PrefillOnlyRecordingsPassTheGateOfTheSameDevice) {
  save(2, "--save-mode prefill_only --out ref_cache");
  const json report = replay_json("--from CPU --gate same-device");
  EXPECT_THAT(report["verdicts"][0]["finding"]["text"].get<std::string>(),
              HasSubstr("only tokens and logits were judged"));
  engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
    if (index == 3) stats.logits_digest ^= 1U;
  };
  replay_json("--from CPU --gate same-device", 1);
}

TEST_F(ReplayVerdict, AMismatchIsShownInPlaceAndAHardFlipFails) {
  save(1, "--out ref_cache");
  engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
    if (index == 2) stats.token = stats.top_ids.back();
  };
  const CommandResult result = run("replay --from CPU");
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.out, HasSubstr("≠ t"));
  EXPECT_THAT(result.out, HasSubstr("Steps: 5, Match: 4/5 (80.0%)"));
  EXPECT_THAT(result.out, HasSubstr("first divergence: step 1, hard flip"));
}

TEST_F(ReplayVerdict, NonFiniteLogitsFail) {
  save(1, "--out ref_cache");
  engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
    if (index == 1) stats.logsumexp = std::numeric_limits<double>::quiet_NaN();
  };
  EXPECT_EQ(run("replay --from CPU").status, 1);
}

TEST_F(ReplayVerdict, ADeviceWithoutAFiniteChoiceIsRecordedAllTheSame) {
  save(1, "--out ref_cache");
  engine_.device.label = "OTHER";
  engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
    if (index != 1) return;
    stats.token = -1;
    stats.logsumexp = std::numeric_limits<double>::quiet_NaN();
  };
  const CommandResult result = run("replay --from CPU --save --out ref_cache");
  EXPECT_EQ(result.status, 1) << result.err;
  const auto recording = format::Recording::open("ref_cache/OTHER/tiny/batch1_input0.kvc");
  EXPECT_TRUE(recording.complete());
  recording.verify();
  EXPECT_EQ(recording.read_step_stats(0).token, -1);
}

TEST_F(ReplayVerdict, TheGateDecidesAndShowsMeasuredAgainstAllowed) {
  save(1, "--out ref_cache");
  write("strict.json", R"({"name": "strict", "rules": {"inject.tokens.compared": {"min": 1000}}})");
  EXPECT_EQ(run("replay --from CPU --gate same-device").status, 0);
  const CommandResult result = run("replay --from CPU --gate strict.json");
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.out, HasSubstr("inject.tokens.compared"));
  EXPECT_THAT(result.out, HasSubstr("1000"));
}

TEST_F(ReplayVerdict, ARuleWhoseModeDidNotRunFails) {
  save(1, "--out ref_cache");
  write("forced.json", R"({"name": "f", "rules": {"forced.kl.p99": {"max": 1}}})");
  EXPECT_EQ(run("replay --from CPU --gate forced.json --mode inject").status, 1);
  EXPECT_EQ(run("replay --from CPU --gate forced.json").status, 0) << "runs what the gate names";
  EXPECT_EQ(run("replay --from CPU --gate forced.json --mode inject,forced").status, 0);
}

TEST_F(ReplayVerdict, TheConfigurationMayHoldTheGate) {
  save(1, "--out ref_cache");
  write("hyperparameter.json",
        R"({"gate": {"name": "own", "rules": {"inject.tokens.compared": {"min": 1000}}}})");
  EXPECT_EQ(run("replay --from CPU").status, 1);
  EXPECT_EQ(run("replay --from CPU --gate same-device").status, 0) << "the command line wins";
}

TEST_F(ReplayVerdict, AnUnknownGateListsTheBuiltInOnes) {
  save(1, "--out ref_cache");
  const CommandResult result = run("replay --from CPU --gate 16bit-corss");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("16bit-cross"));
}

// The device that comes first has a wide bound; it must not excuse the other's flip.
TEST_F(ReplayVerdict, EachRecordingHasTheNearTieBoundOfItsDevice) {
  save(1, "--logits-sample 0 --out ref_cache --device-label LAX");
  save(1, "--logits-sample 0 --out ref_cache --device-label STRICT");
  fs::copy("ref_cache/STRICT/tiny/batch1_input0.kvc", "ref_cache/LAX/tiny/batch1_input1.kvc");
  write("gate.json", R"({"rules": {"*.tokens.tie_rate": null},
      "overrides": [{"reference_device": "LAX", "near_tie_ulps": 1e9}]})");
  engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
    if (index != 1) return;
    std::swap(stats.top_ids[0], stats.top_ids[1]);
    stats.token = stats.top_ids[0];
  };
  const json report = replay_json("--from LAX --batch 1 --gate gate.json", 1);
  std::map<std::string, bool> passed;
  for (const json& verdict : report["verdicts"]) {
    passed[verdict["reference_device"]] = verdict["gate"]["passed"].get<bool>();
  }
  EXPECT_EQ(passed, (std::map<std::string, bool>{{"LAX", true}, {"STRICT", false}}));
}

}  // namespace
}  // namespace kvtool::cli
