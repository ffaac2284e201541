// What a replay or diff says of where its two sides come from.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <string>

#include "save_replay_fixture.h"

namespace kvtool::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;

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

}  // namespace
}  // namespace kvtool::cli
