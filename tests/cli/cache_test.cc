// The cache that a command runs, and its name on the way: options, configuration, META,
// info, resume, gates, verdicts. With a fake engine, which is told the cache.
#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli_fixture.h"
#include "kvtool/cache/policies.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class CacheCommands : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    write_prompts(2);
  }

  CommandResult save(const std::string& options) {
    return run("save --model models/tiny.pt --prompts prompts.jsonl --ignore-eos " + options +
               " --max-new-tokens 5");
  }

  // input 0 of the contiguous cache and input 1 of int8, in one folder.
  void save_mixed() {
    ASSERT_EQ(save("--out rec").status, 0);
    ASSERT_EQ(save("--out other --kv-cache int8").status, 0);
    fs::copy_file("other/CPU/tiny/batch1_input1.kvc", "rec/CPU/tiny/batch1_input1.kvc",
                  fs::copy_options::overwrite_existing);
  }

  [[nodiscard]] std::vector<std::string> generated_caches() const {
    std::vector<std::string> specs;
    for (const auto& options : engine_.generate_options) {
      specs.push_back(options.kv_cache.to_string());
    }
    return specs;
  }
  [[nodiscard]] std::vector<std::string> replayed_caches() const {
    std::vector<std::string> specs;
    for (const auto& options : engine_.replay_options) {
      specs.push_back(options.kv_cache.to_string());
    }
    return specs;
  }

  static json report() { return json::parse(read("out.json")); }
};

TEST_F(CacheCommands, HelpListsThePoliciesOfTheTable) {
  for (const std::string command : {"generate", "save", "replay", "run", "selftest", "calibrate"}) {
    std::string help = run(command + " --help").out;
    // Lines are wrapped.
    std::string words;
    for (std::size_t i = 0; i < help.size(); ++i) {
      const bool blank = help[i] == ' ' || help[i] == '\n';
      if (!blank || (!words.empty() && words.back() != ' ')) words += blank ? ' ' : help[i];
    }
    for (const cache::PolicyInfo& policy : cache::policies()) {
      EXPECT_THAT(words, HasSubstr(std::string(policy.name) + ": " + std::string(policy.summary)))
          << command;
    }
  }
}

TEST_F(CacheCommands, WithoutAChoiceItIsContiguous) {
  ASSERT_EQ(run("generate --model models/tiny.pt --prompts prompts.jsonl").status, 0);
  ASSERT_EQ(save("--out rec").status, 0);
  ASSERT_EQ(run("replay --from rec").status, 0);
  EXPECT_THAT(generated_caches(), Each("contiguous"));
  EXPECT_THAT(replayed_caches(), Each("contiguous"));
}

TEST_F(CacheCommands, TheOptionReachesTheEngine) {
  ASSERT_EQ(run("generate --model models/tiny.pt --prompts prompts.jsonl --kv-cache int8").status,
            0);
  ASSERT_EQ(save("--out rec --kv-cache int8 --batch-size 2").status, 0);
  EXPECT_THAT(generated_caches(), ElementsAre("int8", "int8", "int8"));
  ASSERT_EQ(save("--out plain").status, 0);
  for (const std::string shape : {"", " --batch 1", " --parallel"}) {
    engine_.replay_options.clear();
    ASSERT_EQ(run("replay --from plain --kv-cache int8 --mode inject,forced" + shape).status, 0);
    EXPECT_THAT(replayed_caches(), testing::AllOf(Not(IsEmpty()), Each("int8"))) << shape;
  }
}

TEST_F(CacheCommands, TheOptionWinsOverTheConfiguration) {
  write("c.json", R"({"models": ["models/tiny.pt"], "prompts": [{"token_ids": [3]}],
                      "max_new_tokens": 3, "kv_cache": {"policy": "int8"}})");
  ASSERT_EQ(run("generate --config c.json").status, 0);
  ASSERT_EQ(run("generate --config c.json --kv-cache contiguous").status, 0);
  EXPECT_THAT(generated_caches(), ElementsAre("int8", "contiguous"));
}

TEST_F(CacheCommands, AMisspeltCacheIsAUsageErrorWithTheNearestName) {
  const CommandResult option = save("--out rec --kv-cache itn8");
  EXPECT_EQ(option.status, 2);
  EXPECT_THAT(option.err, HasSubstr("--kv-cache: cache 'itn8', character 1: no cache policy is "
                                    "called 'itn8'; did you mean 'int8'? (there are contiguous, "));
  write("c.json", R"({"kv_cache": {"policy": "int8:bits=4"}})");
  const CommandResult config = run("generate --config c.json");
  EXPECT_EQ(config.status, 2);
  EXPECT_THAT(config.err, HasSubstr("c.json: kv_cache.policy: cache 'int8:bits=4', character 6: "
                                    "int8 takes no options"));
}

TEST_F(CacheCommands, InfoNamesTheCacheOfARecording) {
  save_mixed();
  EXPECT_THAT(run("info rec/CPU/tiny/batch1_input0.kvc").out,
              HasSubstr("Cache policy: contiguous"));
  EXPECT_THAT(run("info rec/CPU/tiny/batch1_input1.kvc").out, HasSubstr("Cache policy: int8"));
  const json listed = json::parse(run("info rec --json").out);
  EXPECT_EQ(listed["recordings"][0]["kv"]["cache"], "contiguous");
  EXPECT_EQ(listed["recordings"][1]["kv"]["cache"], "int8");
}

TEST_F(CacheCommands, AReplayRunsTheCacheOfTheRecordingAndSaysWhereAnotherRan) {
  ASSERT_EQ(save("--out rec --kv-cache int8").status, 0);
  const CommandResult same = run("replay --from rec");
  EXPECT_EQ(same.status, 0);
  EXPECT_THAT(replayed_caches(), Each("int8"));
  EXPECT_THAT(same.err, Not(HasSubstr("K/V cache")));
  EXPECT_THAT(same.out, HasSubstr("\nK/V cache: int8\n"));
  engine_.replay_options.clear();
  const CommandResult other = run("replay --from rec --kv-cache contiguous --save --out own");
  EXPECT_EQ(other.status, 0);
  EXPECT_THAT(replayed_caches(), Each("contiguous"));
  EXPECT_THAT(other.err, HasSubstr("K/V cache: recorded int8, here contiguous ("));
  EXPECT_THAT(other.out, HasSubstr("\nK/V cache: contiguous against int8\n"));
  EXPECT_THAT(run("info own/CPU/tiny/batch1_input0.kvc").out,
              HasSubstr("Cache policy: contiguous"));
}

TEST_F(CacheCommands, VerdictsDoNotPoolRecordingsOfDifferentCaches) {
  save_mixed();
  for (const std::string shape : {"", " --parallel"}) {
    engine_.replayed_batches.clear();
    engine_.replay_options.clear();
    ASSERT_EQ(run("replay --from rec --json out.json" + shape).status, 0);
    EXPECT_THAT(replayed_caches(), ElementsAre("contiguous", "int8")) << shape;
    const json verdicts = report()["verdicts"];
    ASSERT_EQ(verdicts.size(), 2U);
    EXPECT_EQ(verdicts[0]["cache"], "contiguous");
    EXPECT_EQ(verdicts[1]["cache"], "int8");
    EXPECT_EQ(verdicts[1]["reference_cache"], "int8");
    EXPECT_EQ(verdicts[1]["prefill"]["tokens"]["compared"], 1);
  }
  ASSERT_EQ(run("replay --from rec --kv-cache int8 --json out.json").status, 0);
  const json verdicts = report()["verdicts"];
  ASSERT_EQ(verdicts.size(), 2U);
  EXPECT_EQ(verdicts[0]["reference_cache"], "contiguous");
  EXPECT_EQ(verdicts[0]["cache"], "int8");
}

TEST_F(CacheCommands, ADiffNamesTheCachesOfBothSides) {
  ASSERT_EQ(save("--out a").status, 0);
  ASSERT_EQ(save("--out b --kv-cache int8").status, 0);
  const CommandResult diff = run("diff a/CPU/tiny b/CPU/tiny --json out.json");
  EXPECT_EQ(diff.status, 0);
  EXPECT_THAT(diff.err, HasSubstr("K/V cache: contiguous against int8 ("));
  EXPECT_EQ(report()["verdicts"][0]["reference_cache"], "contiguous");
  EXPECT_EQ(report()["verdicts"][0]["cache"], "int8");
  EXPECT_EQ(report()["results"][0]["replay"]["cache"], "int8");
}

TEST_F(CacheCommands, TheDefaultGateDoesNotVouchForAnotherCache) {
  ASSERT_EQ(save("--out rec").status, 0);
  const auto says_so = [&](const std::string& options) {
    EXPECT_EQ(run("replay --from rec --json out.json" + options).status, 0) << options;
    const std::string text = report()["verdicts"][0]["finding"]["text"];
    return text.find("the figures say what the cache costs") != std::string::npos;
  };
  EXPECT_TRUE(says_so(" --kv-cache int8"));
  EXPECT_FALSE(says_so(""));
  EXPECT_FALSE(says_so(" --kv-cache int8 --gate 16bit-cross"));
}

TEST_F(CacheCommands, GatesMatchOnTheCache) {
  ASSERT_EQ(save("--out rec").status, 0);
  write("gate.json", R"({"overrides": [
      {"reference_cache": "contiguous", "cache": "int8*",
       "rules": {"inject.tokens.compared": {"min": 1000}}}]})");
  EXPECT_EQ(run("replay --from rec --gate gate.json").status, 0);
  EXPECT_EQ(run("replay --from rec --gate gate.json --kv-cache int8").status, 1);
}

TEST_F(CacheCommands, ARunWhoseCacheDidNotActFails) {
  ASSERT_EQ(save("--out rec").status, 0);
  engine_.cache_use = [](const cache::CacheSpec&) { return cache::CacheUse{}; };
  for (const std::string spec :
       {"int8", "window:sinks=1,recent=2", "quest:page=1,budget=3,dense=0"}) {
    for (const std::string command :
         {"generate --model models/tiny.pt --prompts prompts.jsonl --ignore-eos "
          "--max-new-tokens 5",
          "save --force --out other --model models/tiny.pt --prompts prompts.jsonl --ignore-eos "
          "--max-new-tokens 5",
          "replay --from rec", "replay --from rec --parallel"}) {
      const CommandResult result = run(command + " --kv-cache " + spec);
      EXPECT_EQ(result.status, 5) << command << spec;
      EXPECT_THAT(result.err,
                  HasSubstr("the K/V cache " + cache::CacheSpec::parse(spec).to_string()))
          << command;
      EXPECT_THAT(result.err, HasSubstr(" did not act: no ")) << command;
    }
  }
  EXPECT_THAT(run("replay --from rec --kv-cache paged:page=1,device=4").err,
              HasSubstr("select=none did not act: no step attended to its pages, in "));
  // Its pages are not what a parallel replay attends to.
  EXPECT_EQ(run("replay --from rec --parallel --kv-cache paged:page=1,device=4").status, 0);
  engine_.cache_use = [](const cache::CacheSpec&) {
    cache::CacheUse use;
    use.visible_keys = use.seen_keys = 70;
    use.most_visible_keys = 7;
    return use;
  };
  const CommandResult paged = run("replay --from rec --kv-cache paged:page=1,device=4");
  EXPECT_EQ(paged.status, 5);
  EXPECT_THAT(paged.err,
              HasSubstr("a step needed 7 pages of an input, 4 have room, and none left"));
  const CommandResult all = run("replay --from rec --kv-cache window:sinks=1,recent=2");
  EXPECT_EQ(all.status, 5);
  EXPECT_THAT(all.err, HasSubstr("a step could see 7 keys, and every step saw all of them"));
  EXPECT_EQ(run("replay --from rec --kv-cache window").status, 0);
  EXPECT_EQ(run("replay --from rec --kv-cache contiguous").status, 0);
}

TEST_F(CacheCommands, TheSummarySaysHowFullTheCacheWasAndWhichKeysTheStepsSaw) {
  engine_.cache_use = [](const cache::CacheSpec&) {
    cache::CacheUse use;
    use.visible_keys = 1000;
    use.seen_keys = 125;
    use.most_visible_keys = 100;
    use.length = 3;
    use.capacity = 12;
    use.evicted_rows = 7;
    use.places = {{"cpu", 5, 6}};
    return use;
  };
  const CommandResult result =
      run("generate --model models/tiny.pt --prompts prompts.jsonl --json out.json --kv-cache "
          "window:sinks=1,recent=2");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr(", steps saw 12.5 % of their keys"));
  EXPECT_EQ(report()["summary"]["caches"][0]["visible_keys"], 1000);
  EXPECT_EQ(report()["summary"]["caches"][0]["seen_keys"], 125);
  EXPECT_THAT(result.out, HasSubstr("recent=2,codec=none, 3 of 12 positions, at most "));
  EXPECT_EQ(report()["summary"]["caches"][0]["length"], 3);
  EXPECT_EQ(report()["summary"]["caches"][0]["capacity"], 12);
  EXPECT_EQ(report()["summary"]["caches"][0]["usage"], 0.25);
  EXPECT_EQ(report()["summary"]["caches"][0]["evicted_rows"], 7);
  EXPECT_EQ(report()["summary"]["caches"][0]["places"][0]["peak_bytes"], 6);
}

TEST_F(CacheCommands, ResumeRefusesAnotherCache) {
  ASSERT_EQ(save("--out rec --kv-cache int8").status, 0);
  const CommandResult other = save("--out rec --resume");
  EXPECT_EQ(other.status, 2);
  EXPECT_THAT(other.err, HasSubstr("it was recorded with K/V cache int8, this run has contiguous"));
  EXPECT_EQ(save("--out rec --resume --kv-cache int8").status, 0);
}

TEST_F(CacheCommands, ASelftestRecordsAndReplaysWithTheCache) {
  ASSERT_EQ(run("selftest --model models/tiny.pt --quick --kv-cache int8").status, 0);
  EXPECT_THAT(generated_caches(), ElementsAre("int8"));
  EXPECT_THAT(replayed_caches(), testing::AllOf(Not(IsEmpty()), Each("int8")));
  // Of recordings that are there, the cache that made them.
  ASSERT_EQ(save("--out rec").status, 0);
  engine_.replay_options.clear();
  ASSERT_EQ(run("selftest --model models/tiny.pt --quick --from rec/CPU").status, 0);
  EXPECT_THAT(replayed_caches(), Each("contiguous"));
}

// Of the reference that is recorded and of every replay, and of the evidence.
TEST_F(CacheCommands, CalibrateMeasuresTheCacheThatWasAskedFor) {
  const CommandResult done =
      run("calibrate --model models/tiny.pt --prompts prompts.jsonl --runs 5 --kv-cache int8 "
          "--out gate.json --max-new-tokens 4");
  ASSERT_EQ(done.status, 0) << done.err;
  EXPECT_THAT(generated_caches(), testing::AllOf(Not(IsEmpty()), Each("int8")));
  EXPECT_THAT(replayed_caches(), testing::AllOf(testing::SizeIs(20), Each("int8")));
  EXPECT_EQ(json::parse(read("gate.json"))["evidence"]["cache"], "int8");
  EXPECT_THAT(done.out, HasSubstr("K/V cache int8"));
}

}  // namespace
}  // namespace kvtool::cli
