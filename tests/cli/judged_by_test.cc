// What reports say of how mismatches are judged: by noise where recordings hold a sample of logits,
// by ulp elsewhere.
#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "save_replay_fixture.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kByNoise = "Judged by measured noise, ";
constexpr const char* kByUlp = "Judged by ulp: the recordings hold no sample of logits";

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++count;
  return count;
}

class JudgedBy : public SaveReplay {
 protected:
  void SetUp() override {
    SaveReplay::SetUp();
    engine_.vocab_size = 300;
  }

  // All reports of one command, the console's first.
  std::vector<std::string> reports(const std::string& command) {
    const CommandResult result =
        run(command + " --json r.json --junit r.xml --markdown r.md --html r.html");
    EXPECT_EQ(result.status, 0) << result.err;
    return {result.out, read("r.xml"), read("r.md"), read("r.html")};
  }
};

TEST_F(JudgedBy, NoiseWhereRecordingsHoldASample) {
  save(2, "--out ref_cache");
  for (const std::string& report : reports("replay --from CPU")) {
    EXPECT_EQ(occurrences(report, kByNoise), 1U) << report;
    EXPECT_EQ(occurrences(report, kByUlp), 0U) << report;
  }
  const json document = json::parse(read("r.json"));
  EXPECT_EQ(document["verdicts"][0]["measures_noise"], true);
  EXPECT_EQ(document["results"][1]["replay"]["modes"][0]["measures_noise"], true);
}

TEST_F(JudgedBy, UlpWhereTheyHoldNoneAndEveryReportSaysSoOnce) {
  save(2, "--logits-sample 0 --out ref_cache");
  for (const std::string& report : reports("replay --from CPU")) {
    EXPECT_EQ(occurrences(report, kByUlp), 1U) << report;
    EXPECT_EQ(occurrences(report, kByNoise), 0U) << report;
  }
  const json document = json::parse(read("r.json"));
  EXPECT_EQ(document["verdicts"][0]["measures_noise"], false);
  EXPECT_EQ(document["results"][0]["replay"]["modes"][0]["measures_noise"], false);
}

TEST_F(JudgedBy, EachVerdictSaysItForItsRecordings) {
  save(2, "--logits-sample 0 --out ref_cache");
  save(1, "--out other");
  const fs::path name = "CPU/tiny/batch1_input0.kvc";
  fs::copy(fs::path("other") / name, "ref_cache" / name, fs::copy_options::overwrite_existing);
  for (const std::string& report : reports("replay --from CPU")) {
    EXPECT_EQ(occurrences(report, kByUlp), 1U) << report;
    EXPECT_EQ(occurrences(report, kByNoise), 1U) << report;
  }
  EXPECT_EQ(json::parse(read("r.json"))["verdicts"].size(), 2U);
}

TEST_F(JudgedBy, UlpInADiffOfSamplesOfDifferentSizes) {
  save(1, "--out a");
  save(1, "--logits-sample 32 --out b");
  for (const std::string& report : reports("diff a b")) {
    EXPECT_EQ(occurrences(report, kByUlp), 1U) << report;
  }
}

// Of either side: what is measured of noise and the gate's rules go together.
TEST_F(JudgedBy, UlpInADiffWhereOneSideHoldsFewBestLogits) {
  save(1, "--out a");
  save(1, "--top-k 7 --out b");
  for (const char* command : {"diff a b", "diff b a"}) {
    for (const std::string& report : reports(command)) {
      EXPECT_EQ(occurrences(report, kByUlp), 1U) << report;
      EXPECT_EQ(occurrences(report, kByNoise), 0U) << report;
    }
    const json verdict = json::parse(read("r.json"))["verdicts"][0];
    EXPECT_EQ(verdict["measures_noise"], false);
    for (const auto& [figure, value] : verdict["figures"].items()) {
      for (const char* of_noise : {"logits.noise", "relative_noise", "kl_estimate.", "flips_"}) {
        EXPECT_EQ(figure.find(of_noise), std::string::npos) << command << ": " << figure;
      }
    }
  }
}

TEST_F(JudgedBy, UlpInASelftestOfRecordingsWithoutASample) {
  save(2, "--logits-sample 0 --ignore-eos --out ref_cache");
  for (const std::string& report : reports("selftest --model models/tiny.pt --from CPU --quick")) {
    EXPECT_EQ(occurrences(report, kByUlp), 1U) << report;
  }
  EXPECT_EQ(json::parse(read("r.json"))["selftests"][0]["measures_noise"], false);
}

TEST_F(JudgedBy, ASelftestByNoiseSaysNothing) {
  save(2, "--ignore-eos --out ref_cache");
  for (const std::string& report : reports("selftest --model models/tiny.pt --from CPU --quick")) {
    EXPECT_EQ(occurrences(report, kByUlp), 0U) << report;
  }
  EXPECT_EQ(json::parse(read("r.json"))["selftests"][0]["measures_noise"], true);
}

}  // namespace
}  // namespace kvtool::cli
