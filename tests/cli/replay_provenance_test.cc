// What a replay or diff says of where its two sides come from.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <string>

#include "kvtool/format/reader.h"
#include "save_replay_fixture.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kPaddedLength = "padded prompt length (6 inputs)";

class ReplayProvenance : public SaveReplay {
 protected:
  static std::size_t count(const std::string& text, const std::string& part) {
    std::size_t found = 0;
    for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++found;
    return found;
  }

  // Every text says the difference of padded lengths once.
  void expect_said_once(const CommandResult& result) {
    EXPECT_EQ(result.status, 0) << result.err;
    const std::vector<std::string> texts = {result.out, result.err, read("r.md"), read("r.html")};
    for (const std::string& text : texts) {
      EXPECT_EQ(count(text, "padded prompt length ("), 1U) << text;
      EXPECT_THAT(text, HasSubstr(kPaddedLength));
    }
    const std::string junit = read("r.xml");
    EXPECT_EQ(count(junit, "provenance: padded prompt length"), 1U) << junit;
    EXPECT_THAT(junit, HasSubstr("recorded 5 to 9, here 2 to 8 (6 inputs)"));
  }
  static json padded_length_of(const json& verdict) {
    for (const json& each : verdict["provenance"]) {
      if (each["key"] == "run.padded_length") return each;
    }
    return nullptr;
  }
};

// Two batches of prompts of 2 to 5 and 6 to 9 tokens: the longest of each has its length alone,
// too.
TEST_F(ReplayProvenance, OfTheBatchesOfAllInputsIsSaidOnceWithItsRange) {
  save(8, "--batch-size 4 --out ref_cache");
  for (const char* shape : {"--parallel", "--batch 1"}) {
    const CommandResult result = run(std::string("replay --from CPU ") + shape +
                                     " --json r.json --junit r.xml --markdown r.md --html r.html");
    expect_said_once(result);
    EXPECT_THAT(result.err, HasSubstr("padded prompt length (6 inputs): recorded 5 to 9, here 2 to "
                                      "8 (kernels are chosen by the shape of the batch)"));
    EXPECT_THAT(result.out, HasSubstr("rows of the batch: recorded 4, here 1"));
    const json report = json::parse(read("r.json"));
    const json padded = padded_length_of(report["verdicts"][0]);
    EXPECT_EQ(padded["label"], "padded prompt length");
    EXPECT_EQ(padded["recorded"], "5 to 9");
    EXPECT_EQ(padded["live"], "2 to 8");
    EXPECT_EQ(padded["inputs"], 6);
    EXPECT_EQ(padded_length_of(report["results"][1]["replay"])["live"], "3");
    EXPECT_EQ(padded_length_of(report["results"][1]["replay"])["inputs"], 1);
  }
}

TEST_F(ReplayProvenance, OfADiffIsSaidOnceToo) {
  save(8, "--batch-size 4 --out a");
  ASSERT_EQ(run("replay --from a/CPU --batch 1 --save --out b").status, 0);
  expect_said_once(run("diff a b --json r.json --junit r.xml --markdown r.md --html r.html"));
}

TEST_F(ReplayProvenance, MetaHasTheDigestsOfPolicyAndPlatform) {
  engine_.device.provenance_json = kWholeProvenance;
  save(1, "--out ref_cache");
  const fs::path path = "ref_cache/CPU/tiny/batch1_input0.kvc";
  const json numerics = format::Recording::open(path).meta()["numerics"];
  EXPECT_EQ(numerics["policy"]["entries"]["device.provenance.threads"], "2");
  EXPECT_EQ(numerics["platform"]["entries"]["device.provenance.torch_version"], "9.9");
  const std::string policy = numerics["policy"]["digest"];
  EXPECT_EQ(policy.size(), 32U);
  EXPECT_THAT(run("info " + path.string()).out,
              HasSubstr("\nPolicy:       " + policy.substr(0, 12) + "\n"));
  const json info = json::parse(run("info " + path.string() + " --json").out)["recordings"][0];
  EXPECT_EQ(info["numerics"]["policy"]["digest"], policy);
  EXPECT_EQ(info["numerics"]["platform"]["digest"], numerics["platform"]["digest"]);
  EXPECT_EQ(info["numerics"]["platform"]["entries"], numerics["platform"]["entries"]);
}

TEST_F(ReplayProvenance, SaysAtOnceWhetherTheNumericalPolicyIsTheSame) {
  engine_.device.provenance_json = kWholeProvenance;
  save(2, "--batch-size 2 --out ref_cache");
  const CommandResult same = run("replay --from CPU");
  EXPECT_THAT(same.err, HasSubstr("same numerical policy as the recordings"));
  EXPECT_THAT(same.out, HasSubstr("Numerical policy: the same. Platform: the same."));
  json provenance = json::parse(kWholeProvenance);
  provenance["threads"] = 1;
  engine_.device.provenance_json = provenance.dump();
  const CommandResult other = run("replay --from CPU --batch 1");
  EXPECT_THAT(other.err, Not(HasSubstr("same numerical policy")));
  EXPECT_THAT(other.err, HasSubstr("CPU threads: recorded 2, here 1"));
  EXPECT_THAT(other.out, HasSubstr("Numerical policy: differs in CPU threads, rows of the batch"));
  const json report = replay_json("--from CPU");
  const json& policy = report["verdicts"][0]["numerics"]["policy"];
  EXPECT_EQ(policy["same"], false);
  EXPECT_EQ(policy["differing"], json::parse(R"(["CPU threads"])"));
  EXPECT_NE(policy["recorded"], policy["live"]);
  EXPECT_EQ(report["results"][1]["replay"]["numerics"]["platform"]["same"], true);
}

TEST_F(ReplayProvenance, AParallelReplayHasAnotherPolicy) {
  engine_.device.provenance_json = kWholeProvenance;
  save(1, "--out ref_cache");
  EXPECT_THAT(run("replay --from CPU --parallel").out,
              HasSubstr("Numerical policy: differs in parallel replay."));
}

TEST_F(ReplayProvenance, ARecordingThatDoesNotTellItsPolicyIsNotTheSame) {
  save(1, "--out ref_cache");
  engine_.device.provenance_json = kWholeProvenance;
  const CommandResult result = run("replay --from CPU");
  EXPECT_THAT(result.err, Not(HasSubstr("same numerical policy")));
  EXPECT_THAT(replay_json("--from CPU")["verdicts"][0]["numerics"]["policy"]["same"],
              json(nullptr));
  EXPECT_THAT(run("info ref_cache/CPU/tiny/batch1_input0.kvc").out,
              HasSubstr("Policy:       unknown, the recording does not tell: instruction set"));
}

TEST_F(ReplayProvenance, WarnsOnceAboutAnotherDevice) {
  save(3, "--out ref_cache");
  engine_.device.name = "Another CPU";
  engine_.device.provenance_json = R"({"torch_version": "9.10", "threads": 1})";
  const CommandResult result = run("replay --from CPU");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("9.10"));
  EXPECT_EQ(result.err.find("9.10"), result.err.rfind("9.10"));
}

}  // namespace
}  // namespace kvtool::cli
