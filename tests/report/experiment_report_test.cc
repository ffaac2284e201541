// What reports say of experiments: nothing is claimed that was not measured with its quality.
#include <gmock/gmock.h>

#include <sstream>

#include "kvtool/run/experiment.h"
#include "report/experiment_words.h"
#include "report/html/experiment_charts.h"
#include "report/reporter.h"

namespace kvtool::report {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

run::Experiment measured_experiment(const std::string& mode, std::vector<double> total_ms,
                                    std::uint64_t device_bytes, std::uint64_t matches) {
  run::Experiment experiment;
  experiment.settings.mode = mode;
  experiment.settings.runs = total_ms.size();
  experiment.spec = mode == "baseline" ? "contiguous" : mode;
  experiment.model_id = "Org/Tiny";
  experiment.context = experiment.asked_context = 64;
  for (const double each : total_ms) {
    run::ExperimentRun run{.number = experiment.runs.size() + 1,
                           .first_token_ms = each / 2,
                           .step_ms = {each / 4, each / 4},
                           .total_ms = each};
    run.use.places = {{"cpu", device_bytes, device_bytes}};
    experiment.runs.push_back(run);
  }
  experiment.quality.compared = 100;
  experiment.quality.matches = matches;
  experiment.quality.agreement = static_cast<double>(matches) / 100.0;
  experiment.quality.hard_flips = 1;
  experiment.quality.kl_is_estimate = true;
  experiment.quality.kl_mean = mode == "baseline" ? 0.0 : 0.02;
  return experiment;
}

run::ExperimentResult two_modes() {
  run::ExperimentResult result;
  result.folder = "out";
  result.device = "CPU";
  result.prompts = "book.txt";
  result.experiments = {measured_experiment("baseline", {100, 110}, 2'000'000, 100),
                        measured_experiment("int8", {80, 84}, 1'000'000, 97)};
  return result;
}

std::string cell_of(const run::Experiment& experiment, std::string_view title) {
  for (const ExperimentColumn& column : experiment_columns()) {
    if (column.title == title) return experiment_cell(column, experiment);
  }
  ADD_FAILURE() << title;
  return {};
}

TEST(ExperimentWords, ACellHasMedianAndRange) {
  const run::ExperimentResult result = two_modes();
  EXPECT_EQ(cell_of(result.experiments[1], "latency ms"), "80.0 (80.0-84.0)");
  EXPECT_EQ(cell_of(result.experiments[1], "first ms"), "40.0");
  EXPECT_EQ(cell_of(result.experiments[1], "tokens/s"), "47.6");
  EXPECT_EQ(cell_of(result.experiments[1], "on the device"), "1.00 MB");
  EXPECT_EQ(cell_of(result.experiments[1], "hits"), "-");
  EXPECT_EQ(cell_of(result.experiments[1], "KL mean"), "2.0e-02");
  EXPECT_EQ(cell_of(result.experiments[0], "KL mean"), "0");
}

// 80 of 100 ms and 1 of 2 MB; lower medians.
TEST(ExperimentWords, AClaimHasItsQualityBesideIt) {
  EXPECT_THAT(experiment_claims(two_modes()), ElementsAre(HasSubstr("int8: 20.0 % less time, ")));
  const std::string claim = experiment_claims(two_modes()).front();
  EXPECT_THAT(claim, HasSubstr("50.0 % less memory of the device"));
  EXPECT_THAT(claim, HasSubstr("97.0% ("));
  EXPECT_THAT(claim, HasSubstr("of 100 tokens of the baseline, 1 hard flip, mean KL 2.0e-02"));
}

TEST(ExperimentWords, NoChangeIsSaidAsSuch) {
  run::ExperimentResult result = two_modes();
  result.experiments[1] = measured_experiment("int8", {80, 84}, 2'000'000, 97);
  EXPECT_THAT(experiment_claims(result).front(), HasSubstr(", as much memory of the device; "));
}

TEST(ExperimentWords, SpreadThatMeetsIsNoSpeedUp) {
  run::ExperimentResult result = two_modes();
  result.experiments[1] = measured_experiment("int8", {80, 100}, 4'000'000, 97);
  const std::string claim = experiment_claims(result).front();
  EXPECT_THAT(claim, HasSubstr("as fast as the baseline within the spread of the runs"));
  EXPECT_THAT(claim, HasSubstr("100.0 % more memory of the device"));
}

TEST(ExperimentWords, NothingIsClaimedOfAPolicyThatDidNothing) {
  run::ExperimentResult result = two_modes();
  result.experiments[1].idle = "every step saw all keys";
  EXPECT_THAT(experiment_claims(result),
              ElementsAre("int8: nothing is claimed: the policy did nothing: every step saw all "
                          "keys"));
  EXPECT_THAT(experiment_line(result.experiments[1]), HasSubstr("did NOTHING"));
}

TEST(ExperimentWords, ALabelTellsEntriesAndModelsApart) {
  run::ExperimentResult result = two_modes();
  EXPECT_EQ(experiment_label(result, result.experiments[1]), "int8");
  result.experiments.push_back(result.experiments[1]);
  result.experiments[2].entry = 3;
  EXPECT_EQ(experiment_label(result, result.experiments[2]), "int8 (3)");
  result.experiments[2].settings.model = "other.pt";
  result.experiments[2].model_slug = "other";
  EXPECT_EQ(experiment_label(result, result.experiments[2]), "int8 of other");
}

TEST(ExperimentReports, TheConsoleFitsEightyColumns) {
  std::ostringstream out;
  const auto reporter = make_console_reporter(out, {});
  run::ExperimentResult result = two_modes();
  result.experiments[1].settings.mode = "paged:page=16,device=64,select=quest\n\x1b[31m";
  result.experiments[1].failure = "bad \x1b[31m thing";
  reporter->experiments(result);
  std::istringstream lines(out.str());
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(display_columns(line), 80U) << line;
    EXPECT_THAT(line, Not(HasSubstr("\x1b")));
  }
  EXPECT_THAT(out.str(), HasSubstr("1 of 2 experiments succeeded"));
}

TEST(ExperimentReports, PagesAndPicturesEscapeWhatTheyShow) {
  run::ExperimentResult result = two_modes();
  result.experiments[1].settings.mode = "<script>alert(1)</script>";
  for (const auto make : {make_html_reporter, make_picture_reporter, make_markdown_reporter}) {
    std::string document;
    const auto reporter = make([&](const std::string& text) { document = text; });
    reporter->begin({"experiment", "0", "now"});
    reporter->experiments(result);
    reporter->finish({});
    EXPECT_THAT(document, Not(HasSubstr("<script>alert")));
    EXPECT_THAT(document, HasSubstr("alert"));
  }
}

TEST(ExperimentCharts, AreDrawnOfWhatWasMeasured) {
  run::ExperimentResult result = two_modes();
  const auto titles = [&] {
    std::vector<std::string> all;
    for (const auto& chart : html::experiment_charts(result, html::picture_palette())) {
      all.push_back(chart.title);
    }
    return all;
  };
  EXPECT_THAT(titles(), ElementsAre(HasSubstr("Latency"), HasSubstr("later token"),
                                    HasSubstr("at most"), HasSubstr("KL divergence")))
      << "no pages, and nothing moved";
  result.experiments[1].runs[0].use.pages.demands = 10;
  result.experiments[1].runs[0].use.pages.hits = 7;
  EXPECT_THAT(titles(), testing::Contains(HasSubstr("Hits on the device")));
  result.experiments.clear();
  EXPECT_THAT(titles(), ElementsAre());
}

// The baseline is exact with 2 MB, int8 takes 1 MB: both are on the frontier.
TEST(ExperimentCharts, TheFrontierGoesFromTheLeastMemoryToTheBest) {
  run::ExperimentResult result = two_modes();
  result.experiments.push_back(measured_experiment("fp8", {90}, 1'500'000, 90));
  result.experiments.back().quality.kl_mean = 0.5;  // worse than int8, with more memory
  const std::string body = html::experiment_charts(result, html::picture_palette()).back().body;
  const std::size_t path = body.find("<path d=\"M");
  const std::string frontier = body.substr(path, body.find("fill", path) - path);
  EXPECT_EQ(std::count(frontier.begin(), frontier.end(), 'V'), 1) << frontier;
  EXPECT_EQ(body.find("stroke-dasharray"), body.rfind("stroke-dasharray")) << "of one context";
  result.experiments[1].context = 128;
  const std::string two = html::experiment_charts(result, html::picture_palette()).back().body;
  EXPECT_NE(two.find("stroke-dasharray"), two.rfind("stroke-dasharray")) << "each its own";
}

}  // namespace
}  // namespace kvtool::report
