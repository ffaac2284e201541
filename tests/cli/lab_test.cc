// lab with the fake engine: what is replayed, what is said of it, and what is refused.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "kvtool/base/error.h"
#include "save_replay_fixture.h"

namespace kvtool::cli {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

// Inputs of 8 and more positions; a page holds two, so that budgets have something to choose.
constexpr const char* kPages = "page=2,sinks=0,recent=1,dense=0";

class Lab : public SaveReplay {
 protected:
  void SetUp() override {
    SaveReplay::SetUp();
    write_prompts(2);
    ASSERT_EQ(run(std::string(kSave) + "--batch-size 2 --out ref_cache").status, 0);
  }

  json lab(const std::string& words, int status = 0) {
    const CommandResult result = run("lab --from CPU --json - " + words);
    EXPECT_EQ(result.status, status) << result.err;
    return json::parse(result.out).at("labs").at(0);
  }

  static std::vector<std::string> names(const json& lab) {
    std::vector<std::string> names;
    for (const json& row : lab.at("rows")) names.push_back(row.at("name"));
    return names;
  }

  static json row(const json& lab, const std::string& name) {
    for (const json& row : lab.at("rows")) {
      if (row.at("name") == name) return row;
    }
    ADD_FAILURE() << "no row " << name;
    return {};
  }

  void expect_usage_error(const std::string& words, const std::string& message) {
    const CommandResult result = run("lab " + words);
    EXPECT_EQ(result.status, 2) << words << result.err;
    EXPECT_THAT(result.err, HasSubstr(message)) << words;
  }

  void perturb_policies() {
    engine_.perturb = [this](std::uint64_t index, format::StepStats& stats) {
      if (engine_.replay_options.back().kv_cache == cache::CacheSpec() || index != 2) return;
      std::swap(stats.top_ids[0], stats.top_ids[1]);
      stats.token = stats.top_ids[0];
    };
  }
};

TEST_F(Lab, RunsEachPolicyAtEachBudgetBesideItsControls) {
  const json result = lab(std::string("--policy int8,quest:") + kPages + " --budget 50");
  EXPECT_THAT(names(result),
              ElementsAre("full", "noise", "int8", std::string("quest:") + kPages + " 50%",
                          std::string("mass:") + kPages + " 50%", "window 50%",
                          std::string("random:") + kPages + " 50%"));
  EXPECT_EQ(row(result, "full").at("spec"), "contiguous");
  EXPECT_EQ(row(result, "full").at("quality").at("agreement"), 1.0);
  EXPECT_EQ(row(result, "int8").at("role"), "policy");
  EXPECT_TRUE(row(result, "int8").at("applied").at("acted"));
  EXPECT_GT(row(result, "int8").at("step_ms").at("count"), 0);
  EXPECT_LT(row(result, "window 50%").at("applied").at("seen_share"), 1.0);
}

TEST_F(Lab, FiguresAreThoseOfAReplayUnderThePolicy) {
  perturb_policies();
  const json quality = row(lab("--policy int8 --mode forced,free"), "int8").at("quality");
  const json figures =
      json::parse(run("replay --from CPU --kv-cache int8 --mode forced,free --json -").out)
          .at("verdicts")
          .at(0)
          .at("figures");
  EXPECT_EQ(quality.at("compared"), figures.at("forced.tokens.compared"));
  EXPECT_EQ(quality.at("matches"), figures.at("forced.tokens.matches"));
  EXPECT_LT(quality.at("matches"), quality.at("compared"));
  EXPECT_EQ(quality.at("hard_flips"), figures.at("forced.tokens.hard_flips"));
  EXPECT_EQ(quality.at("kl_mean"), figures.at("forced.kl_estimate.mean"));
  EXPECT_EQ(quality.at("agreed_tokens_median"), figures.at("free.tokens.agreed_median"));
}

// The noise floor is measured by a process of its own, or one input at a time.
TEST_F(Lab, TheNoiseFloorSaysWhatDiffers) {
  const json noise = row(lab("--policy int8 --cpu-isa sse41"), "noise");
  EXPECT_EQ(noise.at("note"), "one input at a time instead of in batches");
  EXPECT_EQ(noise.at("step_ms"), nullptr);
  EXPECT_EQ(noise.at("quality").at("agreement"), 1.0);
  ASSERT_EQ(run(std::string(kSave) + "--batch-size 1 --out alone").status, 0);
  const CommandResult result = run("lab --from alone --policy int8 --cpu-isa sse41");
  EXPECT_THAT(result.out, HasSubstr("noise: did not run: no weaker instruction set"));
}

TEST_F(Lab, APolicyThatDidNothingClaimsNothing) {
  engine_.cache_use = [](const cache::CacheSpec&) { return cache::CacheUse(); };
  const json result = lab("--policy int8");
  EXPECT_EQ(row(result, "int8").at("applied").at("acted"), false);
  EXPECT_EQ(row(result, "int8").at("applied").at("idle"),
            "no row was kept otherwise than the model made it");
  EXPECT_TRUE(result.at("checks").empty());
  const CommandResult shown = run("lab --from CPU --policy int8");
  EXPECT_THAT(shown.out, HasSubstr("int8: the policy did NOTHING"));
  EXPECT_THAT(shown.out, testing::Not(HasSubstr("keeps K/V in")));
}

TEST_F(Lab, StrictFailsWhereACheckDoes) {
  // Whoever sees less does better than who sees all.
  engine_.perturb = [this](std::uint64_t, format::StepStats& stats) {
    if (engine_.replay_options.back().kv_cache != cache::CacheSpec()) return;
    std::swap(stats.top_ids[0], stats.top_ids[1]);
    stats.token = stats.top_ids[0];
  };
  EXPECT_FALSE(lab("--policy int8 --rows none").at("checks_passed"));
  EXPECT_FALSE(lab("--policy int8 --rows none --strict", 1).at("checks_passed"));
  EXPECT_THAT(run("lab --from CPU --policy int8 --rows none").out,
              HasSubstr("full >= policy: does NOT hold of full and int8"));
}

TEST_F(Lab, RowsNoneLeavesThePoliciesAndFull) {
  EXPECT_THAT(names(lab("--policy int8 --policy fp8 --rows none")),
              ElementsAre("full", "int8", "fp8"));
}

TEST_F(Lab, TheGateIsThatOfTheRun) {
  perturb_policies();
  const json gate = row(lab("--policy int8 --rows none"), "int8").at("gate");
  EXPECT_EQ(gate.at("passed"), false);
  EXPECT_THAT(gate.at("worst_failure"), HasSubstr("hard_flips"));
  write("lax.json", R"({"name": "lax", "rules": {"forced.tokens.hard_flips": {"max": 100}}})");
  const json lax = row(lab("--policy int8 --rows none --gate lax.json"), "int8");
  EXPECT_EQ(lax.at("gate").at("name"), "lax");
  EXPECT_THAT(lax.at("modes"), testing::Contains("inject"));
}

TEST_F(Lab, WritesMarkdownAndAPageWithAPicture) {
  engine_.cache_use = [](const cache::CacheSpec& kv_cache) {
    cache::CacheUse use;
    use.logical_bytes = use.physical_bytes = 8000;
    use.applied_rows = kv_cache == cache::CacheSpec() ? 0 : 1;
    return use;
  };
  perturb_policies();
  ASSERT_EQ(run("lab --from CPU --policy int8 --markdown r.md --html r.html").status, 0);
  EXPECT_THAT(read("r.md"), HasSubstr("| <code>int8</code> |"));
  EXPECT_THAT(read("r.html"), HasSubstr("<svg viewBox"));
}

TEST_F(Lab, ARowThatCannotRunIsShownAndEndsTheCommandAsItsError) {
  engine_.on_step = [this](std::uint64_t, std::uint64_t) {
    if (engine_.replay_options.empty()) return;
    if (engine_.replay_options.back().kv_cache.policy() == "int8") {
      throw_environment("out of memory");
    }
  };
  const CommandResult result = run("lab --from CPU --policy int8,fp8 --rows none --json -");
  EXPECT_EQ(result.status, 5);
  const json report = json::parse(result.out);
  EXPECT_THAT(names(report.at("labs").at(0)), ElementsAre("full", "int8", "fp8"));
  EXPECT_EQ(row(report.at("labs").at(0), "int8").at("missing"), "out of memory");
  EXPECT_EQ(report.at("error").at("message"), "the row int8: out of memory");
}

TEST_F(Lab, TypicalMistakesSayWhatToDo) {
  expect_usage_error("--policy int8", "needs --from");
  expect_usage_error("--from CPU", "no policy to compare: name one with --policy");
  expect_usage_error("--from CPU --sensitivity --breakeven", "no policy whose time to compare");
  expect_usage_error("--from GPU --policy int8", "GPU");
  expect_usage_error("--from CPU --policy int8,quset", "--policy quset");
  expect_usage_error("--from CPU --policy int8,int8", "--policy int8 is given twice");
  expect_usage_error("--from CPU --policy quest --budget 0", "--budget 0: expected a share");
  expect_usage_error("--from CPU --policy int8 --budget 50",
                     "--budget is for a policy that selects what a step sees");
  expect_usage_error("--from CPU --policy quest:page=2 --budget 25",
                     "--budget 25% of quest:page=2 is too small: --policy quest:page=2,budget=25%");
  expect_usage_error("--from CPU --policy int8 --kv-cache int8", "no option --kv-cache");
  engine_.loaded_models.clear();
  expect_usage_error("--from CPU --policy page=2", "--policy page=2");
  EXPECT_TRUE(engine_.loaded_models.empty()) << "before anything runs";
}

TEST_F(Lab, StopsWhenInterrupted) {
  engine_.on_step = [](std::uint64_t, std::uint64_t) { interrupt_source().request_stop(); };
  EXPECT_EQ(run("lab --from CPU --policy int8").status, kInterruptedStatus);
}

TEST_F(Lab, HelpNamesWhatIsAlwaysThere) {
  EXPECT_THAT(run("lab --help").out, HasSubstr("Always there: full"));
  EXPECT_THAT(run("--help").out, HasSubstr("lab"));
}

}  // namespace
}  // namespace kvtool::cli
