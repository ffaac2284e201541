// experiment with the fake engine: what runs, what is written, and what is refused.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "cli_fixture.h"
#include "kvtool/base/error.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

// The command with what `words` leave out.
std::string small(const std::string& words) {
  std::string command =
      "experiment --model models/tiny.pt --page-size 4 --max-device-pages 4 --output out " + words;
  for (const auto& [option, value] : {std::pair{"--context", "48"}, std::pair{"--runs", "2"},
                                      std::pair{"--max-new-tokens", "6"}}) {
    if (words.find(option) == std::string::npos) command += std::string(" ") + option + " " + value;
  }
  return command;
}

class Experiments : public CommandTest {
 protected:
  json summary(const std::string& words, int status = 0) {
    const CommandResult result = run(small(words));
    EXPECT_EQ(result.status, status) << result.err;
    return json::parse(read("out/experiment_summary.json"));
  }

  static std::vector<std::string> files() {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator("out")) {
      if (entry.path().extension() == ".json") names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  void expect_refused(const std::string& words, const std::string& message) {
    const CommandResult result = run("experiment " + words);
    EXPECT_EQ(result.status, 2) << words << result.err;
    EXPECT_THAT(result.err, HasSubstr(message)) << words;
  }

  // Throws in the first generation under the policy.
  void fail_under(const std::string& policy) {
    engine_.on_step = [this, policy, failed = false](std::uint64_t, std::uint64_t) mutable {
      if (failed || engine_.generate_options.back().kv_cache.policy() != policy) return;
      failed = true;
      throw_environment("out of memory");
    };
  }
};

TEST_F(Experiments, RunsEachModeAndWritesAFileForEachRun) {
  const json found = summary("");
  EXPECT_THAT(files(), ElementsAre("baseline_1_ctx48_run1.json", "baseline_1_ctx48_run2.json",
                                   "experiment_summary.json", "predictive_3_ctx48_run1.json",
                                   "predictive_3_ctx48_run2.json", "quantized_5_ctx48_run1.json",
                                   "quantized_5_ctx48_run2.json", "reactive_2_ctx48_run1.json",
                                   "reactive_2_ctx48_run2.json", "window_4_ctx48_run1.json",
                                   "window_4_ctx48_run2.json"));
  EXPECT_EQ(found.at("experiment_summary").at("total_experiments"), 5);
  EXPECT_EQ(found.at("experiment_summary").at("successful_experiments"), 5);
  EXPECT_EQ(found.at("mode_summaries").size(), 5U);
  const json window = found.at("experiments").at(3);
  EXPECT_EQ(window.at("spec"), "window:sinks=4,recent=12,codec=none");
  EXPECT_EQ(window.at("acted"), true);
  EXPECT_EQ(window.at("quality").at("compared"), 5);
  EXPECT_EQ(window.at("latency_ms").at("count"), 2);
  const json run = json::parse(read("out/window_4_ctx48_run2.json"));
  EXPECT_EQ(run.at("status"), "complete");
  EXPECT_EQ(run.at("run"), 2);
  EXPECT_EQ(run.at("step_ms").size(), 5U);
  EXPECT_EQ(run.at("settings").at("context_length"), 48);
  EXPECT_THAT(read("out/experiment.html"), HasSubstr("<svg viewBox"));
  EXPECT_THAT(read("out/plots/kv_cache_comparison.svg"), HasSubstr("Latency of a generation"));
}

// A reference for each length, a replay for each mode, and the runs.
TEST_F(Experiments, TheBaselineIsRecordedOnceForEachLength) {
  summary("--mode baseline --mode int8 --context 16,32 --no-plots");
  EXPECT_EQ(engine_.generated_batches.size(), 2U + 2U * 2U * 2U);
  EXPECT_EQ(engine_.replayed_batches.size(), 4U);
  EXPECT_EQ(engine_.loaded_models.size(), 1U);
  EXPECT_FALSE(fs::exists("out/experiment.html"));
  EXPECT_FALSE(fs::exists("out/plots"));
  for (const engine::ReplayOptions& options : engine_.replay_options) {
    EXPECT_EQ(options.mode, format::ReplayMode::kForced);
  }
}

TEST_F(Experiments, QualityIsThatOfAForcedReplay) {
  engine_.perturb = [this](std::uint64_t index, format::StepStats& stats) {
    if (engine_.replay_options.back().kv_cache == cache::CacheSpec() || index != 2) return;
    std::swap(stats.top_ids[0], stats.top_ids[1]);
    stats.token = stats.top_ids[0];
  };
  const json found = summary("--mode baseline --mode int8");
  EXPECT_EQ(found.at("experiments").at(0).at("quality").at("agreement"), 1.0);
  EXPECT_EQ(found.at("experiments").at(1).at("quality").at("matches"), 4);
  EXPECT_EQ(found.at("comparative_analysis").at("int8").at("quality").at("matches"), 4);
  const CommandResult shown = run(small("--mode baseline --mode int8"));
  EXPECT_THAT(shown.out, HasSubstr("int8: "));
  EXPECT_THAT(shown.out, HasSubstr("80.0%"));
}

TEST_F(Experiments, APolicyThatDidNothingClaimsNothing) {
  engine_.cache_use = [](const cache::CacheSpec&) { return cache::CacheUse(); };
  const json found = summary("--mode baseline --mode int8");
  EXPECT_EQ(found.at("experiments").at(1).at("acted"), false);
  EXPECT_EQ(found.at("comparative_analysis").at("int8").at("latency_speedup_percent"), nullptr);
  EXPECT_THAT(std::string(found.at("comparative_analysis").at("int8").at("missing")),
              HasSubstr("the policy did nothing"));
  const CommandResult shown = run(small("--mode baseline --mode int8"));
  EXPECT_THAT(shown.out, HasSubstr("int8: nothing is claimed"));
  EXPECT_THAT(shown.out, Not(HasSubstr("less time")));
}

TEST_F(Experiments, AContextIsShortenedAndTheRowSaysSo) {
  const json found = summary("--mode baseline --context 400");
  EXPECT_EQ(found.at("experiments").at(0).at("asked_context_length"), 400);
  EXPECT_EQ(found.at("experiments").at(0).at("context_length"), 251);
  EXPECT_EQ(found.at("experiments").at(0).at("shortened"), true);
  EXPECT_THAT(run(small("--mode baseline --context 400")).out,
              HasSubstr("251 tokens of context instead of 400"));
}

TEST_F(Experiments, OneThatFailsIsOneFailedExperiment) {
  fail_under("int8");
  const json found = summary("--mode baseline --mode int8 --mode fp8", 5);
  EXPECT_EQ(found.at("experiment_summary").at("successful_experiments"), 2);
  const json failed = found.at("experiments").at(1);
  EXPECT_EQ(failed.at("success"), false);
  EXPECT_EQ(failed.at("error"), "out of memory");
  EXPECT_EQ(json::parse(read("out/int8_2_ctx48_run1.json")).at("status"), "failed");
  EXPECT_EQ(found.at("experiments").at(2).at("success"), true);
  fail_under("int8");
  const CommandResult shown = run(small("--mode baseline --mode int8"));
  EXPECT_THAT(shown.out, HasSubstr("FAILED: out of memory"));
  EXPECT_THAT(shown.err, HasSubstr("experiment 2 (int8 at 48): out of memory"));
}

TEST_F(Experiments, AModelThatIsNotThereFailsItsExperimentsAlone) {
  write("e.json", R"({"experiments": [{"mode": "baseline", "model_name": "models/no.pt"},
                                      {"mode": "baseline", "model_name": "models/tiny.pt"}]})");
  const CommandResult result = run("experiment --config e.json --output out --context 8 -q");
  EXPECT_EQ(result.status, 2);
  const json found = json::parse(read("out/experiment_summary.json"));
  EXPECT_EQ(found.at("experiments").at(0).at("error"), "model file models/no.pt does not exist");
  EXPECT_EQ(found.at("experiments").at(1).at("success"), true);
}

TEST_F(Experiments, InterruptedItKeepsWhatIsDoneAndResumesTheRest) {
  std::size_t steps = 0;
  engine_.on_step = [&](std::uint64_t, std::uint64_t) {
    // In the second mode: after its recording and the first mode's replay and runs.
    if (engine_.generated_batches.size() == 4 && ++steps == 3) interrupt_source().request_stop();
  };
  EXPECT_EQ(run(small("--mode baseline --mode int8")).status, kInterruptedStatus);
  json found = json::parse(read("out/experiment_summary.json"));
  EXPECT_EQ(found.at("interrupted"), true);
  EXPECT_THAT(files(), ElementsAre("baseline_1_ctx48_run1.json", "baseline_1_ctx48_run2.json",
                                   "experiment_summary.json"));
  interrupt_source().reset();
  engine_.on_step = nullptr;
  engine_.generated_batches.clear();
  found = summary("--mode baseline --mode int8 --resume");
  EXPECT_EQ(found.at("interrupted"), false);
  EXPECT_EQ(found.at("experiments").at(0).at("resumed_runs"), 2);
  EXPECT_EQ(found.at("experiments").at(1).at("resumed_runs"), 0);
  EXPECT_EQ(engine_.generated_batches.size(), 1U + 2U) << "the reference, and two runs";
  EXPECT_EQ(found.at("comparative_analysis").at("int8").at("compared_experiments"), 1);
  engine_.generated_batches.clear();
  summary("--mode baseline --mode int8 --resume");
  EXPECT_TRUE(engine_.generated_batches.empty());
}

TEST_F(Experiments, ResumeRepeatsWhatHadOtherSettings) {
  summary("--mode int8");
  engine_.generated_batches.clear();
  summary("--mode int8 --max-new-tokens 5 --resume");
  EXPECT_EQ(engine_.generated_batches.size(), 3U);
  engine_.generated_batches.clear();
  summary("--mode int8 --max-new-tokens 5 --runs 3 --resume");
  EXPECT_EQ(engine_.generated_batches.size(), 1U) << "the third, judged as the others were";
}

TEST_F(Experiments, PromptsAreOfATextOrJoined) {
  write("book.txt", std::string(100, 'a') + std::string(100, 'b'));
  json found = summary("--mode baseline --batch-size 3 --text book.txt");
  EXPECT_EQ(found.at("prompts"), "book.txt");
  EXPECT_EQ(engine_.generated_batches.back(), 3U);
  write_prompts(2);
  found = summary("--mode baseline --prompts prompts.jsonl");
  EXPECT_EQ(found.at("prompts"), "2 prompts, joined to the length");
  found = summary("--mode baseline --text book.txt --context 201", 2);
  EXPECT_THAT(std::string(found.at("experiments").at(0).at("error")),
              HasSubstr("the text has only 200 tokens"));
}

TEST_F(Experiments, ACheckpointIsExportedFirst) {
  write("ckpt/config.json", "{}");
  const CommandResult result = run("experiment --model ckpt --mode baseline --context 8 --runs 1");
  EXPECT_EQ(result.status, 5) << "no exporter here";
  EXPECT_THAT(result.err, HasSubstr("model ckpt has not been exported"));
}

TEST_F(Experiments, WritesAConfigurationThatRuns) {
  const CommandResult written = run("experiment --create-config --model models/tiny.pt");
  EXPECT_EQ(written.status, 0);
  EXPECT_THAT(written.out, HasSubstr("kvtool experiment --config experiment_config.json"));
  EXPECT_EQ(run("experiment --create-config").status, 2) << "it is there";
  EXPECT_EQ(run("experiment --config experiment_config.json --context 20 --runs 1 --output out -q")
                .status,
            0);
  EXPECT_EQ(json::parse(read("out/experiment_summary.json"))
                .at("experiment_summary")
                .at("total_experiments"),
            5);
}

TEST_F(Experiments, TypicalMistakesSayWhatToDo) {
  expect_refused("", "give --config FILE, or --model");
  expect_refused("--model models/tiny.pt --mode reactve", "did you mean 'reactive'?");
  expect_refused("--model models/tiny.pt --quantization int8", "--quantization: 'int8': weights");
  expect_refused("--model models/tiny.pt --kv-cache int8", "no option --kv-cache");
  expect_refused("--model models/tiny.pt --max-device-pages 2",
                 "--max-device-pages 2: a step sees");
  expect_refused("--config e.json --mode baseline", "--config names the modes");
  expect_refused("--config no.json", "no.json");
  expect_refused("--model models/tiny.pt --text a --prompts b", "give one of them");
  EXPECT_FALSE(fs::exists("experiments"));
  EXPECT_TRUE(engine_.loaded_models.empty());
}

TEST_F(Experiments, AllReportsHaveThem) {
  const CommandResult result =
      run(small("--mode baseline --mode int8 --json r.json --markdown r.md"));
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(json::parse(read("r.json")).at("experiments").at("folder"), "out");
  EXPECT_THAT(read("r.md"), HasSubstr("| <code>int8</code> |"));
  EXPECT_THAT(result.out, HasSubstr("latency ms"));
  EXPECT_THAT(result.out, HasSubstr("Results: out"));
}

}  // namespace
}  // namespace kvtool::cli
