// selftest with the fake engine, whose faults change rows as the real one's do.
#include <gmock/gmock.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "cli/interrupt.h"
#include "cli_fixture.h"
#include "kvtool/run/faults.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kSelftest = "selftest --model models/tiny.pt --max-new-tokens 8 ";

class SelftestCommandTest : public CommandTest {
 protected:
  // References are made below a folder of the test, so that leftovers show.
  void SetUp() override {
    CommandTest::SetUp();
    fs::create_directory("temporary");
    ::setenv("TMPDIR", fs::absolute("temporary").c_str(), 1);
  }
  void TearDown() override {
    EXPECT_TRUE(fs::is_empty("temporary"));
    ::unsetenv("TMPDIR");
    CommandTest::TearDown();
  }
  json selftest(const std::string& options, int status = 0) {
    return result_of(kSelftest + options, status);
  }
  json selftest_of_recordings(const std::string& options) {
    return result_of("selftest --model models/tiny.pt --quick --from CPU " + options, 0);
  }
  json result_of(const std::string& command, int status) {
    const CommandResult result = run(command + " --json -");
    EXPECT_EQ(result.status, status) << result.err;
    return json::parse(result.out)["selftests"].at(0);
  }
  static const json& fault(const json& result, const std::string& name) {
    const auto found = std::find_if(result["faults"].begin(), result["faults"].end(),
                                    [&](const json& each) { return each["name"] == name; });
    if (found == result["faults"].end()) throw std::out_of_range(name);
    return *found;
  }
};

TEST_F(SelftestCommandTest, CatchesEveryFaultInItsLayer) {
  const json result = selftest("--quick");
  EXPECT_EQ(result["passed"], true);
  EXPECT_EQ(result["gate"], "fp32-cross");
  EXPECT_EQ(result["control"]["passed"], true);
  EXPECT_EQ(result["inputs"], 2);
  EXPECT_EQ(result["steps"], 14);
  ASSERT_EQ(result["faults"].size(), run::kFaults.size());
  for (std::size_t i = 0; i < run::kFaults.size(); ++i) {
    const json& each = result["faults"][i];
    EXPECT_EQ(each["name"], run::kFaults[i].name);
    EXPECT_EQ(each["caught"], true) << each;
    EXPECT_EQ(each["located"], true) << each;
    EXPECT_FALSE(each["failed_rules"].empty()) << each;
  }
  EXPECT_THAT(fault(result, "scaled-values")["departure"].get<std::string>(),
              HasSubstr("V of layer 1"));
  EXPECT_THAT(fault(result, "rotated-keys")["departure"].get<std::string>(),
              HasSubstr("K of layer 1"));
}

TEST_F(SelftestCommandTest, RunsTheControlThenEachFaultOnce) {
  selftest("--quick");
  ASSERT_EQ(engine_.replay_options.size(), 1 + run::kFaults.size());
  EXPECT_FALSE(engine_.replay_options.front().fault.has_value());
  for (std::size_t i = 1; i < engine_.replay_options.size(); ++i) {
    const auto& options = engine_.replay_options[i];
    EXPECT_EQ(options.mode, format::ReplayMode::kInject);
    ASSERT_TRUE(options.fault.has_value());
    EXPECT_EQ(options.fault->layer, 1U);
    EXPECT_EQ(options.fault->step, 3U);  // of 7
  }
  EXPECT_DOUBLE_EQ(engine_.replay_options[1].fault->strength, 0.01);
}

TEST_F(SelftestCommandTest, LoadsTheModelOnce) {
  selftest("--quick");
  EXPECT_EQ(engine_.loaded_models.size(), 1U);
}

// V x (1 + s) gives the scale error s.
TEST_F(SelftestCommandTest, FindsTheSmallestStrengthThatIsCaught) {
  write("scale.json", R"({"rules": {"inject.kv.*.layer_max.scale_error": {"max": 1e-3}}})");
  const json result = selftest("--gate scale.json");
  const json& scaled = fault(result, "scaled-values");
  EXPECT_GE(scaled["smallest_caught"].get<double>(), 1e-3 * 0.9999);
  EXPECT_LT(scaled["smallest_caught"].get<double>(), 1e-3 * 1.15);
  EXPECT_LT(scaled["largest_missed"].get<double>(), 1e-3 * 1.0001);
  EXPECT_GT(scaled["largest_missed"].get<double>(), 1e-3 / 1.15);
  EXPECT_EQ(scaled["strength"], 0.01);
  EXPECT_LT(fault(result, "swapped-heads")["smallest_caught"].get<double>(), 0.1);
  EXPECT_TRUE(fault(result, "nonfinite")["smallest_caught"].is_null());
}

TEST_F(SelftestCommandTest, ALaxGateFails) {
  write("lax.json", R"({"name": "lax", "rules": {"inject.kv.value.layer_max.scale_error":
                        {"max": 0.02}}})");
  const json result = selftest("--gate lax.json", 1);
  EXPECT_EQ(result["passed"], false);
  EXPECT_EQ(result["control"]["passed"], true);
  const json& scaled = fault(result, "scaled-values");
  EXPECT_EQ(scaled["caught"], false);
  EXPECT_TRUE(scaled["failed_rules"].empty());
  EXPECT_EQ(scaled["largest_missed"], 0.01);
  EXPECT_TRUE(scaled["smallest_caught"].is_null());
  EXPECT_EQ(fault(result, "nonfinite")["caught"], true);
}

TEST_F(SelftestCommandTest, ANoisyDeviceFailsTheControl) {
  engine_.perturb_delta = [](std::uint64_t step, std::uint32_t, std::span<float> key,
                             std::span<float>) { key[step % key.size()] += 0.5F; };
  const json result = selftest("", 1);
  EXPECT_EQ(result["control"]["passed"], false);
  EXPECT_FALSE(result["control"]["failed_rules"].empty());
  EXPECT_EQ(result["faults"].size(), run::kFaults.size());
  // A search would find that every strength is caught.
  EXPECT_EQ(engine_.replay_options.size(), 1 + run::kFaults.size());
}

TEST_F(SelftestCommandTest, TheWorstFigureComesFirst) {
  const json rules = fault(selftest("--quick"), "scaled-values")["failed_rules"];
  ASSERT_GE(rules.size(), 2U);
  const auto excess = [](const json& rule) {
    return rule["max"].is_number() && rule["max"].get<double>() > 0.0
               ? rule["measured"].get<double>() / rule["max"].get<double>()
               : std::numeric_limits<double>::infinity();
  };
  for (std::size_t i = 1; i < rules.size(); ++i) {
    EXPECT_GE(excess(rules[i - 1]), excess(rules[i])) << rules;
  }
}

// The token that went wrong is an effect of the NaN.
TEST_F(SelftestCommandTest, ANaNIsReportedWhereItIs) {
  const json result = selftest("--quick");
  EXPECT_EQ(fault(result, "nonfinite")["failed_rules"][0]["figure"], "inject.kv.value.nonfinite");
}

TEST_F(SelftestCommandTest, TestsAgainstGivenRecordings) {
  save(3, "--batch-size 3 --out ref_cache");
  engine_.generated_batches.clear();
  const CommandResult done = run("selftest --model models/tiny.pt --quick --from CPU --json -");
  ASSERT_EQ(done.status, 0) << done.err;
  const json result = json::parse(done.out)["selftests"].at(0);
  EXPECT_TRUE(engine_.generated_batches.empty());
  EXPECT_EQ(result["inputs"], 3);
  EXPECT_EQ(result["reference"], "CPU");
  engine_.weights = 2;
  EXPECT_EQ(run("selftest --model models/tiny.pt --from CPU").status, 3);
}

TEST_F(SelftestCommandTest, UsesGivenPrompts) {
  write_prompts(5);
  const json result = selftest("--quick --prompts prompts.jsonl");
  EXPECT_EQ(result["inputs"], 5);
  EXPECT_EQ(engine_.generated_batches, (std::vector<std::size_t>{2, 2, 1}));
}

TEST_F(SelftestCommandTest, OtherModesOnRequest) {
  write("forced.json", R"({"name": "forced", "rules": {
      "forced.kv.*.layer_max.relative_l2": {"max": 1e-4}}})");
  const json result = selftest("--quick --mode forced --gate forced.json");
  EXPECT_EQ(result["passed"], true);
  EXPECT_EQ(engine_.replay_options.back().mode, format::ReplayMode::kForced);
}

TEST_F(SelftestCommandTest, ReplaysOneInputAtATime) {
  save(3, "--batch-size 3 --out ref_cache");
  const json result = selftest_of_recordings("--batch 1");
  EXPECT_EQ(result["passed"], true);
  EXPECT_EQ(result["inputs"], 3);
  EXPECT_EQ(result["batch"], "1");
  ASSERT_EQ(engine_.replayed_batches.size(), 3 * (1 + run::kFaults.size()));
  for (const engine::ReplayBatch& batch : engine_.replayed_batches) {
    EXPECT_EQ(batch.rows.size(), 1U);
  }
}

TEST_F(SelftestCommandTest, ReplaysAllStepsInOnePass) {
  save(3, "--batch-size 2 --out ref_cache");
  const json result = selftest_of_recordings("--parallel --parallel-memory 7");
  EXPECT_EQ(result["passed"], true);
  EXPECT_EQ(result["parallel"], true);
  ASSERT_EQ(engine_.replayed_batches.size(), 1 + run::kFaults.size());
  for (const engine::ReplayBatch& batch : engine_.replayed_batches) {
    EXPECT_EQ(batch.rows.size(), 3U);
  }
  for (const engine::ReplayOptions& options : engine_.replay_options) {
    EXPECT_TRUE(options.parallel);
    EXPECT_EQ(options.parallel_memory_bytes, 7U << 20);
  }
  EXPECT_FALSE(engine_.replay_options.front().fault);
  EXPECT_TRUE(engine_.replay_options.back().fault);
}

TEST_F(SelftestCommandTest, TheModeFreeCannotRunInParallel) {
  const CommandResult chosen = run(std::string(kSelftest) + "--parallel --mode free");
  EXPECT_EQ(chosen.status, 2);
  EXPECT_THAT(chosen.err, HasSubstr("the mode free cannot run in parallel"));
  EXPECT_THAT(chosen.err, HasSubstr("leave --parallel out, or --mode free"));
  write("free.json", R"({"name": "needs-free", "rules": {"free.kl.p99": {"max": 1}}})");
  const CommandResult needed = run(std::string(kSelftest) + "--parallel --gate free.json");
  EXPECT_EQ(needed.status, 2);
  EXPECT_THAT(needed.err, HasSubstr("the gate needs-free needs the mode free"));
  EXPECT_THAT(needed.err, HasSubstr("or choose --mode inject,forced"));
  EXPECT_EQ(run(std::string(kSelftest) + "--parallel --batch 1").status, 2);
  const CommandResult idle = run(std::string(kSelftest) + "--parallel-memory 7");
  EXPECT_EQ(idle.status, 2);
  EXPECT_THAT(idle.err, HasSubstr("--parallel-memory is for a parallel replay: add --parallel"));
}

TEST_F(SelftestCommandTest, NeedsSteps) {
  const CommandResult result = run("selftest --model models/tiny.pt --max-new-tokens 1");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("at least two tokens; use other prompts or a larger "
                                    "--max-new-tokens"));
  EXPECT_EQ(run("selftest").status, 2);
}

TEST_F(SelftestCommandTest, CtrlCLeavesNothingBehind) {
  engine_.on_step = [](std::uint64_t, std::uint64_t step) {
    if (step == 3) interrupt_source().request_stop();
  };
  const CommandResult result = run(kSelftest);
  EXPECT_EQ(result.status, kInterruptedStatus);
  EXPECT_THAT(result.err, Not(HasSubstr("recordings are complete")));
}

TEST_F(SelftestCommandTest, ShowsTheResultAsText) {
  const CommandResult result = run(kSelftest);
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.out, HasSubstr("scaled-values: V x 1.01 in layer 1"));
  EXPECT_THAT(result.out, HasSubstr("Caught 6 of 6 faults"));
}

}  // namespace
}  // namespace kvtool::cli
