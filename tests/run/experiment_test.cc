// What a list of experiments means, and what is said of what was measured; no engine.
#include "kvtool/run/experiment.h"

#include <gmock/gmock.h>

#include <cmath>
#include <functional>

#include "kvtool/base/error.h"
#include "run/experiment/experiment_clock.h"
#include "run/experiment/experiment_files.h"
#include "run/experiment/experiment_plan.h"
#include "support/error_of.h"
#include "support/folder_test.h"

namespace kvtool::run {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// ---- Plan --------------------------------------------------------------------------

ExperimentSettings of_mode(const std::string& mode) {
  ExperimentSettings settings;
  settings.mode = mode;
  settings.model = "m.pt";
  settings.page_size = 8;
  settings.max_device_pages = 4;
  settings.prefetch_k = 2;
  settings.batch_size = 3;
  return settings;
}

std::string spec_of(const std::string& mode) { return experiment_cache(of_mode(mode)).to_string(); }

// Four pages of eight positions: what is on the device is what a step sees.
TEST(ExperimentPlan, AModeIsACacheOfTheSameSizeAsTheOthers) {
  EXPECT_EQ(spec_of("baseline"), "contiguous");
  EXPECT_EQ(spec_of("reactive"), cache::CacheSpec::parse("paged:page=8,device=12,residency=lru,"
                                                         "select=quest,budget=4")
                                     .to_string());
  EXPECT_EQ(spec_of("predictive"),
            cache::CacheSpec::parse("paged:page=8,device=12,residency=predictive,prefetch=2,"
                                    "select=quest,budget=4")
                .to_string());
  EXPECT_EQ(spec_of("window"), "window:sinks=4,recent=28,codec=none");
  EXPECT_EQ(spec_of("quantized"), cache::CacheSpec::parse("kivi").to_string());
  EXPECT_EQ(spec_of("int8"), "int8");
}

TEST(ExperimentPlan, ExperimentsOfOneLengthRunTogether) {
  std::vector<ExperimentSettings> list = {of_mode("baseline"), of_mode("int8"), of_mode("fp8")};
  list[0].contexts = list[1].contexts = {64, 128, 64};
  list[2].contexts = {128};
  list[2].model = "other.pt";
  const ExperimentPlan plan = plan_experiments(list);
  ASSERT_EQ(plan.experiments.size(), 5U) << "64 once";
  ASSERT_EQ(plan.models.size(), 2U);
  ASSERT_EQ(plan.models[0].groups.size(), 2U);
  EXPECT_THAT(plan.models[0].groups[0].experiments, ElementsAre(0, 2));
  EXPECT_EQ(plan.models[0].groups[1].context, 128U);
  EXPECT_EQ(plan.experiments[2].entry, 2U);
  EXPECT_EQ(plan.models[1].model, "other.pt");
}

std::string plan_refusal(const ExperimentSettings& settings, std::size_t times = 1) {
  const Error error =
      error_of([&] { (void)plan_experiments(std::vector<ExperimentSettings>(times, settings)); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  return error.what();
}

TEST(ExperimentPlan, RefusesWhatCannotRun) {
  EXPECT_THAT(plan_refusal(of_mode("reactve")), HasSubstr("did you mean 'reactive'?"));
  EXPECT_THAT(plan_refusal(of_mode("reactve")), HasSubstr("no K/V cache"));
  ExperimentSettings settings = of_mode("reactive");
  settings.max_device_pages = 2;
  EXPECT_THAT(plan_refusal(settings), HasSubstr("max_device_pages 2: "));
  EXPECT_THAT(plan_refusal(settings), HasSubstr("3 is the least"));
  EXPECT_THAT(plan_refusal(settings, 2), HasSubstr("experiment 1: max_device_pages"));
  settings = of_mode("window");
  settings.page_size = settings.max_device_pages = 2;
  EXPECT_THAT(plan_refusal(settings), HasSubstr("hold 4 positions, and 4 are sinks"));
  settings.model.clear();
  EXPECT_THAT(plan_refusal(settings), HasSubstr("no model"));
  settings = of_mode("baseline");
  settings.max_new_tokens = 1;
  EXPECT_THAT(plan_refusal(settings), HasSubstr("max_new_tokens 1: "));
  EXPECT_THAT(plan_refusal(settings, 0), HasSubstr("no experiment to run"));
}

TEST(ExperimentPlan, AContextIsShortenedToTheModelsPositions) {
  engine::ModelInfo model;
  model.model_id = "Tiny";
  model.max_positions = 100;
  EXPECT_EQ(fitting_context(80, 16, model), 80U);
  EXPECT_EQ(fitting_context(200, 16, model), 85U) << "the last token is not fed";
  const Error error = error_of([&] { (void)fitting_context(8, 101, model); });
  EXPECT_THAT(error.what(), HasSubstr("max_new_tokens can be 100 at most"));
  model.max_positions = 0;
  EXPECT_EQ(fitting_context(200, 16, model), 200U) << "it does not say how many";
}

// ---- Figures -----------------------------------------------------------------------

// Of 2, 4, 4, 10: mean 5, sample variance (9 + 1 + 1 + 25) / 3 = 12.
TEST(ExperimentSpread, IsOfASample) {
  const Spread spread = *spread_of({4, 10, 2, 4});
  EXPECT_EQ(spread.count, 4U);
  EXPECT_DOUBLE_EQ(spread.mean, 5.0);
  EXPECT_DOUBLE_EQ(spread.median, 4.0);
  EXPECT_DOUBLE_EQ(spread.least, 2.0);
  EXPECT_DOUBLE_EQ(spread.most, 10.0);
  EXPECT_DOUBLE_EQ(spread.deviation, std::sqrt(12.0));
  EXPECT_DOUBLE_EQ(spread_of({3.0})->deviation, 0.0);
  EXPECT_FALSE(spread_of({}));
}

ExperimentRun taking(double total_ms, std::uint64_t device_bytes) {
  ExperimentRun run;
  run.first_token_ms = total_ms / 2;
  run.step_ms = {total_ms / 4, total_ms / 4};
  run.total_ms = total_ms;
  run.use.peak_bytes = 3 * device_bytes;
  run.use.places = {{"cpu", device_bytes, device_bytes}, {"host", 0, 2 * device_bytes}};
  return run;
}

Experiment measured(const std::string& mode, std::vector<double> total_ms,
                    std::uint64_t device_bytes, std::uint64_t matches) {
  Experiment experiment;
  experiment.settings = of_mode(mode);
  experiment.settings.batch_size = 1;
  experiment.settings.runs = total_ms.size();
  experiment.model_id = "Tiny";
  experiment.context = experiment.asked_context = 64;
  for (const double each : total_ms) experiment.runs.push_back(taking(each, device_bytes));
  experiment.quality.compared = 100;
  experiment.quality.matches = matches;
  experiment.quality.hard_flips = 100 - matches;
  experiment.quality.kl_is_estimate = true;
  experiment.quality.kl_mean = 0.01;
  return experiment;
}

// 80 ms against 100, 125 tokens a second of 100, 40 bytes of 100.
TEST(ExperimentComparison, IsOfTheMediansOfEachPair) {
  ExperimentResult result;
  result.experiments = {measured("baseline", {100, 90, 110}, 100, 100),
                        measured("int8", {80, 79, 81}, 40, 95)};
  const ModeComparison comparison = result.comparisons().at(0);
  EXPECT_EQ(comparison.mode, "int8");
  EXPECT_EQ(comparison.missing, "");
  EXPECT_DOUBLE_EQ(comparison.latency_speedup_percent->mean, 20.0);
  EXPECT_DOUBLE_EQ(comparison.throughput_speedup_percent->mean, 25.0);
  EXPECT_DOUBLE_EQ(comparison.memory_saving_percent->mean, 60.0);
  EXPECT_FALSE(comparison.within_spread);
  EXPECT_EQ(comparison.quality.hard_flips, 5U);
  // 95 of 100 (binom.test of R).
  EXPECT_NEAR(*comparison.quality.agreement_low, 0.887165, 1e-5);
  result.experiments[1] = measured("int8", {80, 79, 90}, 40, 95);
  EXPECT_TRUE(result.comparisons().at(0).within_spread);
}

TEST(ExperimentComparison, PoolsTheQualityOfItsPairs) {
  ExperimentResult result;
  result.experiments = {measured("baseline", {100}, 100, 100), measured("int8", {80}, 40, 95),
                        measured("baseline", {100}, 100, 100), measured("int8", {60}, 40, 99)};
  result.experiments[2].context = result.experiments[3].context = 128;
  result.experiments[3].quality.kl_mean = 0.03;
  const ModeComparison comparison = result.comparisons().at(0);
  EXPECT_EQ(comparison.latency_speedup_percent->count, 2U);
  EXPECT_DOUBLE_EQ(comparison.latency_speedup_percent->mean, 30.0);
  EXPECT_EQ(comparison.quality.compared, 200U);
  EXPECT_DOUBLE_EQ(*comparison.quality.agreement, 0.97);
  EXPECT_DOUBLE_EQ(*comparison.quality.kl_mean, 0.02);
}

std::string missing_of(const std::function<void(ExperimentResult&)>& spoil) {
  ExperimentResult result;
  result.experiments = {measured("baseline", {100}, 100, 100), measured("int8", {80}, 40, 95)};
  spoil(result);
  const ModeComparison comparison = result.comparisons().at(0);
  EXPECT_FALSE(comparison.latency_speedup_percent);
  EXPECT_FALSE(comparison.memory_saving_percent);
  EXPECT_EQ(comparison.quality.compared, 0U);
  return comparison.missing;
}

TEST(ExperimentComparison, ClaimsNothingOfWhatDidNotActOrCannotBeCompared) {
  EXPECT_THAT(missing_of([](auto& result) { result.experiments[1].idle = "it saw all"; }),
              HasSubstr("the policy did nothing: it saw all"));
  EXPECT_THAT(missing_of([](auto& result) { result.experiments[1].failure = "no memory"; }),
              HasSubstr("it failed"));
  EXPECT_THAT(missing_of([](auto& result) { result.experiments[1].settings.runs = 2; }),
              HasSubstr("not finished"));
  EXPECT_THAT(missing_of([](auto& result) { result.experiments[1].unjudged = "no disk"; }),
              HasSubstr("quality is not known: no disk"));
  for (const auto& other : {std::function([](Experiment& each) { each.context = 32; }),
                            std::function([](Experiment& each) { each.model_id = "B"; }),
                            std::function([](Experiment& each) { each.settings.batch_size = 2; }),
                            std::function([](Experiment& each) { each.failure = "x"; })}) {
    EXPECT_THAT(missing_of([&](auto& result) { other(result.experiments[0]); }),
                HasSubstr("no finished baseline"));
  }
}

TEST(ExperimentSummary, HasEveryModeWithItsSpread) {
  ExperimentResult result;
  result.experiments = {measured("baseline", {100, 110}, 100, 100),
                        measured("reactive", {80}, 40, 95), measured("int8", {80}, 40, 95)};
  cache::PageTraffic& pages = result.experiments[1].runs[0].use.pages;
  pages.demands = 20;
  pages.hits = 15;
  pages.prefetched = 8;
  pages.prefetch_hits = 6;
  pages.miss_seconds = 0.003;  // of 40 ms
  pages.late_seconds = 0.001;
  result.experiments[2].failure = "no memory";
  result.seconds = 2.5;
  const nlohmann::json summary = experiment_summary(result);
  EXPECT_EQ(summary.at("experiment_summary").at("total_experiments"), 3);
  EXPECT_EQ(summary.at("experiment_summary").at("successful_experiments"), 2);
  EXPECT_EQ(summary.at("experiment_summary").at("total_duration_seconds"), 2.5);
  const nlohmann::json& modes = summary.at("mode_summaries");
  EXPECT_EQ(modes.at("baseline").at("average_latency_ms"), 105.0);
  EXPECT_EQ(modes.at("baseline").at("spread").at("latency_ms").at("max"), 110.0);
  EXPECT_EQ(modes.at("baseline").at("average_prediction_accuracy"), nullptr);
  EXPECT_EQ(modes.at("reactive").at("average_prediction_accuracy"), 0.75);
  EXPECT_EQ(modes.at("reactive").at("average_cache_hit_rate"), 0.75);
  EXPECT_DOUBLE_EQ(modes.at("reactive").at("average_stall_share"), 0.1);
  EXPECT_EQ(modes.at("baseline").at("average_stall_share"), nullptr);
  EXPECT_EQ(modes.at("reactive").at("average_tokens_per_second"), 50.0);
  EXPECT_EQ(modes.at("int8").at("average_latency_ms"), nullptr);
  const nlohmann::json& analysis = summary.at("comparative_analysis");
  EXPECT_FALSE(analysis.contains("baseline"));
  EXPECT_EQ(analysis.at("reactive").at("latency_speedup_percent"), 20.0);
  EXPECT_EQ(analysis.at("reactive").at("quality").at("matches"), 95);
  EXPECT_EQ(analysis.at("int8").at("latency_speedup_percent"), nullptr);
  EXPECT_EQ(analysis.at("int8").at("missing"), "it failed");
}

// ---- Time left ---------------------------------------------------------------------

TEST(ExperimentClock, TellsWhatIsLeftOnceAPartIsDone) {
  struct Listener : Observer {
    void progress(const std::string& what) override { said = what; }
    std::string said;
  } listener;
  std::vector<Experiment> experiments = {measured("baseline", {100}, 1, 1),
                                         measured("int8", {100}, 1, 1)};
  ExperimentClock clock;
  clock.begin(experiments);
  const auto tell = [&](const Experiment& experiment, const std::string& part) {
    clock.progress(listener, StopToken(), experiment, part)(1, 4);
    return listener.said;
  };
  EXPECT_EQ(tell(experiments[0], "replay"), "experiment 1/2: baseline at 64, replay, step 1/4");
  clock.finish_part(experiments[0]);
  EXPECT_THAT(tell(experiments[0], "run 1/1"), HasSubstr("run 1/1, step 1/4, about "));
  EXPECT_THAT(listener.said, testing::EndsWith(" left"));
  clock.skip(experiments[0]);
  EXPECT_THAT(tell(experiments[1], "replay"), HasSubstr("experiment 2/2: int8 at 64, "));
  clock.skip(experiments[1]);
  StopSource stop;
  stop.request_stop();
  EXPECT_THROW(clock.progress(listener, stop.token(), experiments[1], "replay")(2, 4), Interrupted);
}

// ---- Files -------------------------------------------------------------------------

using ExperimentFiles = FolderTest;

TEST_F(ExperimentFiles, ARunIsReadBackWhereItsSettingsAreTheSame) {
  Experiment experiment = measured("int8", {80}, 40, 95);
  experiment.idle = "why";
  experiment.read_bytes_per_step = 12.5;
  const RunSettings settings{.mode = "int8", .spec = "int8", .model_id = "Tiny", .context = 64};
  write_run(".", settings, experiment, experiment.runs[0], "now");
  ASSERT_TRUE(std::filesystem::exists("int8_1_ctx64_run1.json"));

  Experiment again = measured("int8", {1}, 1, 1);
  const auto run = read_run(".", settings, 1, again);
  ASSERT_TRUE(run);
  EXPECT_EQ(run->total_ms, 80.0);
  EXPECT_EQ(run->step_ms, experiment.runs[0].step_ms);
  EXPECT_EQ(run->use, experiment.runs[0].use);
  EXPECT_EQ(again.idle, "why");
  EXPECT_EQ(again.quality.matches, 95U);
  EXPECT_EQ(again.read_bytes_per_step, 12.5);

  RunSettings other = settings;
  other.prompt_digest = "x";
  EXPECT_FALSE(read_run(".", other, 1, again));
  EXPECT_FALSE(read_run(".", settings, 2, again));
  experiment.failure = "no memory";
  write_run(".", settings, experiment, experiment.runs[0], "now");
  EXPECT_FALSE(read_run(".", settings, 1, again)) << "it failed";
  write("int8_1_ctx64_run1.json", "{\"status\": \"complete\"");
  EXPECT_FALSE(read_run(".", settings, 1, again)) << "damaged";
}

}  // namespace
}  // namespace kvtool::run
