// What the reports show of a lab.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "kvtool/run/lab.h"
#include "report/lab/lab_tables.h"
#include "report/lab/lab_words.h"
#include "sample_results.h"

namespace kvtool::report {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

run::LabRow lab_sample_row(run::LabRole role, const std::string& given, const std::string& budget) {
  run::LabRow row;
  row.role = role;
  row.given = given;
  row.budget = budget;
  row.name = budget.empty() ? given : given + " " + budget;
  row.spec = given;
  row.mode = "forced";
  row.modes = {"forced", "free"};
  row.quality.compared = 381;
  row.quality.matches = 375;
  row.quality.noise_flips = 4;
  row.quality.hard_flips = 2;
  row.quality.agreement = 375.0 / 381.0;
  row.quality.agreement_low = 0.966;
  row.quality.agreement_high = 0.994;
  row.quality.expected_flips = 3.25;
  row.quality.expected_deviation = 1.5;
  row.quality.kl_is_estimate = true;
  row.quality.kl_mean = 0.0123;
  row.quality.kl_error = 0.0001;
  row.quality.agreed_median = 17;
  row.quality.agreed_min = 3;
  row.bytes.positions = 100;
  row.bytes.logical_bytes = 2'304'000;
  row.bytes.kept_bytes = row.bytes.peak_bytes = 1'224'000;
  row.bytes.read_bytes_per_step = 6.0e6;
  row.applied.applied_rows = 3840;
  row.time = {{800.0}, {40.0, 42.0, 41.0}, {11.0, 12.0, 13.0}, true};
  row.gate = "default";
  row.gate_failure = "forced.tokens.hard_flips: measured 2, allowed at most 0";
  return row;
}

run::LabResult lab_sample() {
  run::LabResult result;
  result.model_id = "Org/Tiny";
  result.dtype = "bfloat16";
  result.from = "CPU";
  result.reference_cache = "contiguous";
  result.inputs = 3;
  result.steps = 381;
  run::LabRow full = lab_sample_row(run::LabRole::kFull, "full", "");
  full.quality.hard_flips = 0;
  full.quality.kl_mean = 0.0;
  full.bytes.kept_bytes = full.bytes.logical_bytes;
  full.bytes.read_bytes_per_step = 12.0e6;
  full.applied = {};
  full.time.step_ms = {20.0, 20.5, 21.0};
  full.gate_passed = true;
  run::LabRow noise = lab_sample_row(run::LabRole::kNoise, "noise", "");
  noise.missing = "no weaker instruction set";
  run::LabRow idle = lab_sample_row(run::LabRole::kPolicy, "quest", "100%");
  idle.idle = "every step saw all keys";
  result.rows = {full, noise, lab_sample_row(run::LabRole::kPolicy, "int8", ""), idle,
                 lab_sample_row(run::LabRole::kPolicy, hostile_text(), "12.5%")};
  result.checks = {{"full >= policy", "full", "int8", "98.4% against 90.0%", true},
                   {"policy >= random", "quest 50%", "random 50%", "50.0% against 90.0%", false}};
  return result;
}

run::LabPart part_of(std::optional<std::uint64_t> layer, const std::string& name,
                     std::uint32_t bits, double kl) {
  run::LabPart part{name, layer, bits, "kivi:" + name, {}};
  part.quality.kl_is_estimate = true;
  part.quality.kl_mean = kl;
  part.quality.kl_error = kl / 100;
  return part;
}

// Noise 0.001. In 8 bits nothing costs, in 4 bits K costs 0.006 and V 0.002 more than the noise,
// and the layers 0.0005, 0.004, 0.003 and 0.
run::LabSensitivity sensitivity_sample() {
  run::LabSensitivity sample{"forced", "group=32,residual=32,sinks=0", {}, {}};
  sample.full = part_of({}, "", 0, 0.001).quality;
  for (const char* name : {"K and V", "K", "V"})
    sample.parts.push_back(part_of({}, name, 8, 0.001));
  sample.parts.push_back(part_of({}, "K and V", 4, 0.009));
  sample.parts.push_back(part_of({}, "K", 4, 0.007));
  sample.parts.push_back(part_of({}, "V", 4, 0.003));
  for (const auto& [layer, kl] : std::vector<std::pair<std::uint64_t, double>>{
           {0, 0.0015}, {1, 0.005}, {2, 0.004}, {3, 0.0009}}) {
    sample.parts.push_back(part_of(layer, "layer " + std::to_string(layer), 4, kl));
  }
  return sample;
}

std::string lab_document(
    std::unique_ptr<Reporter> (*make)(std::function<void(const std::string&)>)) {
  std::string written;
  const auto reporter = make([&](const std::string& text) { written = text; });
  reporter->begin({"lab", "1.0", "2026-01-02T03:04:05Z"});
  reporter->lab(lab_sample());
  reporter->finish({});
  return written;
}

TEST(LabReport, TheConsoleShowsEveryTableInEightyColumns) {
  std::ostringstream out;
  make_console_reporter(out, {})->lab(lab_sample());
  const std::string shown = out.str();
  EXPECT_THAT(shown, HasSubstr(" 3 int8                    98.4% (96.6-99.4)         4     2"
                               "     6 : 3.2 ± 1.5\n"));
  EXPECT_THAT(shown, HasSubstr("1.2e-02 ± 1.0e-04"));
  EXPECT_THAT(shown, HasSubstr("17 (3)"));
  EXPECT_THAT(shown,
              HasSubstr(" 3 int8                    23040   12240   53.1%   12240      6.00 MB"));
  EXPECT_THAT(shown, HasSubstr("NOTHING"));
  EXPECT_THAT(shown, HasSubstr("Checks: 1 of 2 hold"));
  EXPECT_THAT(shown, HasSubstr("policy >= random: does NOT hold of quest 50% and random 50%"));
  std::istringstream lines(shown);
  for (std::string line; std::getline(lines, line);) {
    std::size_t columns = 0;
    for (const char c : line) columns += (static_cast<unsigned char>(c) & 0xC0U) != 0x80U ? 1 : 0;
    EXPECT_LE(columns, 80U) << line;
  }
}

// Bytes 12 of 23 MB; reads half; a step 41.0 against 20.5 ms.
TEST(LabReport, ASavingHasItsQualityBesideItAndAnIdlePolicyHasNone) {
  const std::vector<std::string> claims = lab_claims(lab_sample());
  ASSERT_EQ(claims.size(), 2U);
  EXPECT_EQ(claims[0],
            "int8: keeps K/V in 53.1% of its bytes, reads 50.0% of what a step of full reads, a "
            "step takes 2.00 times as long (41.0 (40.0-42.0) against 20.5 (20.0-21.0) ms); "
            "agreement 98.4% (96.6-99.4), hard flips 2, KL mean 1.2e-02 ± 1.0e-04");
  run::LabResult busy = lab_sample();
  busy.rows[0].time.step_ms = {20.0, 20.5, 40.5};
  EXPECT_THAT(lab_claims(busy)[0],
              HasSubstr("steps take as long within their spread (41.0 (40.0-42.0) against 20.5"));
  EXPECT_THAT(lab_row_line(lab_sample().rows[3]),
              HasSubstr("the policy did NOTHING (every step saw all keys): nothing is claimed"));
  EXPECT_EQ(lab_row_line(lab_sample().rows[1]), "noise: did not run: no weaker instruction set");
}

TEST(LabReport, SaysWhichPartBearsFewBits) {
  const LabTable table = sensitivity_table(sensitivity_sample());
  EXPECT_THAT(table.head, testing::ElementsAre("part", "KL, 8 bits", "hard", "KL, 4 bits", "hard"));
  ASSERT_EQ(table.rows.size(), 8U);
  EXPECT_THAT(table.rows[0],
              testing::ElementsAre("none", "1.0e-03 ± 1.0e-05", "0", "1.0e-03 ± 1.0e-05", "0"));
  EXPECT_THAT(table.rows[5], testing::ElementsAre("layer 1", "-", "-", "5.0e-03 ± 5.0e-05", "0"));
  ASSERT_EQ(table.lines.size(), 4U);
  EXPECT_THAT(table.lines[1], HasSubstr("In 8 bits everything together stays within 1.5 times"));
  EXPECT_EQ(table.lines[2], "In 4 bits K costs 3.00 times what V does (KL mean beyond the noise).");
  // 0.004 of 0.0075 is more than half.
  EXPECT_EQ(table.lines[3],
            "In 4 bits 1 of 4 layers (1) make 53% of what layers cost one by one beyond the noise; "
            "kivi:k=4,v=4,layers=0+2-3 leaves them alone.");
}

TEST(LabReport, SaysFromWhichLengthAPolicyPays) {
  run::LabBreakeven pays{.name = "quest 25%",
                         .shortest = 513,
                         .longest = 4223,
                         .at_zero = 4.0,
                         .slope = -0.002,
                         .at_shortest = 2.974,
                         .at_shortest_half = 0.5,
                         .at_longest = -4.446,
                         .at_longest_half = 0.6,
                         .slope_half = 0.0004,
                         .crossing = 2000.0};
  run::LabBreakeven not_yet = pays;
  not_yet.longest = 1000;
  not_yet.at_longest = 2.0;
  run::LabBreakeven unclear = pays;
  unclear.at_shortest_half = unclear.at_longest_half = 9.0;
  run::LabBreakeven missing{.name = "int8", .missing = "the recordings are of too few lengths"};
  const LabTable table = breakeven_table({pays, not_yet, unclear, missing});
  EXPECT_THAT(table.rows[0],
              testing::ElementsAre("quest 25%", "513-4223", "+2.97 ± 0.50", "-4.45 ± 0.60",
                                   "-2.00 ± 0.40", "pays from about 2000 positions on"));
  EXPECT_EQ(table.rows[1].back(),
            "does not pay at the lengths measured, by the line from about 2000 on, which nobody "
            "measured");
  EXPECT_EQ(table.rows[2].back(), "as fast as full within the spread");
  EXPECT_EQ(table.rows[3].back(), "the recordings are of too few lengths");
}

TEST(LabReport, ShowsPerplexityBesideThatOfFull) {
  run::LabPerplexity sample{.text = "book.txt",
                            .context = 1024,
                            .windows = 7,
                            .prompt = 3584,
                            .tokens = 3584,
                            .rows = {}};
  run::PerplexityRow full;
  full.role = run::LabRole::kFull;
  full.name = "full";
  full.tokens = 3584;
  full.perplexity = 12.3456;
  run::PerplexityRow kivi = full;
  kivi.role = run::LabRole::kPolicy;
  kivi.name = "kivi:k=2,v=2";
  kivi.acted = true;
  kivi.perplexity = 18.5;
  kivi.increase = 0.4985;
  kivi.increase_low = 0.41;
  kivi.increase_high = 0.59;
  run::PerplexityRow idle = kivi;
  idle.acted = false;
  idle.nonfinite = 2;
  run::PerplexityRow missing;
  missing.role = run::LabRole::kNoise;
  missing.name = "noise";
  missing.missing = "one text at a time";
  sample.rows = {full, missing, kivi, idle};
  const LabTable table = perplexity_table(sample);
  using testing::ElementsAre;
  EXPECT_EQ(table.title, "Perplexity at 1024 tokens");
  EXPECT_THAT(table.rows[0], ElementsAre("full", "3584", "12.346", "-", ""));
  EXPECT_THAT(table.rows[1],
              ElementsAre("noise", "-", "-", "-", "did not run: one text at a time"));
  EXPECT_THAT(table.rows[2],
              ElementsAre("kivi:k=2,v=2", "3584", "18.500", "+49.85% (+41.00 to +59.00)", ""));
  EXPECT_EQ(table.rows[3].back(), "the policy did NOTHING here, 2 without a probability");
  EXPECT_THAT(table.lines[0], HasSubstr("book.txt, 7 windows: 3584 tokens read in one pass"));
}

TEST(LabReport, ShowsNeedlesByCacheAndByDepth) {
  run::NeedleRow row;
  row.role = run::LabRole::kPolicy;
  row.name = "quest 25%";
  row.acted = true;
  row.seen_share = 0.25;
  row.asked = 36;
  row.recalled = 27;
  row.recall = 0.75;
  row.recall_low = 0.578;
  row.recall_high = 0.879;
  row.kept = 26;
  row.full_recalls = 30;
  row.log_probability = -1.25;
  row.depths = {{0.0, 4, 3}, {0.125, 4, 4}};
  const run::LabNeedles sample{.text = "built-in sentences",
                               .context = 2048,
                               .texts = 4,
                               .example = "The secret number of Rome is 12345.",
                               .rows = {row}};
  const LabTable table = needle_table(sample);
  EXPECT_THAT(table.rows[0], testing::ElementsAre("quest 25%", "75.0% (57.8-87.9)", "26/30",
                                                  "-1.25", "25.0% of the keys"));
  EXPECT_THAT(table.lines[0], HasSubstr("4 texts of 9 needles such as \"The secret number of "));
  const LabTable grid = needle_grid(sample);
  EXPECT_THAT(grid.head, testing::ElementsAre("row", "0%", "12.5%"));
  EXPECT_THAT(grid.rows[0], testing::ElementsAre("quest 25%", "3", "4"));
}

TEST(LabReport, ARowThatDidNotRunHasNoFigures) {
  for (const LabColumn& column : lab_columns(lab_sample())) {
    EXPECT_EQ(lab_cell(column, lab_sample().rows[1]), "-") << column.title;
  }
}

std::vector<std::string> lab_titles(const run::LabResult& result) {
  std::vector<std::string> titles;
  for (const LabColumn& column : lab_columns(result)) titles.emplace_back(column.title);
  return titles;
}

// 1000 pages read, of which 700 were there and 50 on their way; 200 came ahead, 120 of them used.
run::LabResult paged_sample() {
  run::LabResult result = lab_sample();
  run::LabPaging& paging = result.rows[2].paging;
  paging.pages = {.demands = 1000,
                  .hits = 700,
                  .inner_demands = 800,
                  .inner_hits = 508,
                  .late = 50,
                  .prefetched = 200,
                  .prefetch_hits = 120,
                  .wasted_bytes = 960'000,
                  .miss_seconds = 0.5,
                  .late_seconds = 0.125,
                  .write_seconds = 0.125};
  paging.decode_seconds = 5.0;
  paging.ghost = run::LabGhost{"paged:device=100%", "", {32.0, 33.0, 34.0}, 4.0, 2};
  return result;
}

TEST(LabReport, AColumnThatNoRowHasIsLeftOut) {
  EXPECT_THAT(lab_titles(lab_sample()), Not(testing::Contains("hits")));
  EXPECT_THAT(lab_titles(lab_sample()), Not(testing::Contains("regret")));
  EXPECT_THAT(lab_titles(lab_sample()), testing::Contains("agreement"));
  run::LabResult reactive = paged_sample();
  reactive.rows[2].paging.pages.prefetched = reactive.rows[2].paging.pages.prefetch_hits = 0;
  EXPECT_THAT(lab_titles(reactive), testing::Contains("hits"));
  EXPECT_THAT(lab_titles(reactive), testing::Contains("stall"));
  EXPECT_THAT(lab_titles(reactive), Not(testing::Contains("late")));
  EXPECT_THAT(lab_titles(reactive), Not(testing::Contains("precision")));
}

TEST(LabReport, PagesStandInTablesOfTheirOwn) {
  std::ostringstream out;
  make_console_reporter(out, {})->lab(paged_sample());
  EXPECT_THAT(out.str(), HasSubstr("   hits inner hits   late precision coverage     wasted\n"));
  EXPECT_THAT(out.str(), HasSubstr(" 3 int8                   70.0%      63.5%     50     60.0%"
                                   "    32.4%    0.96 MB\n"));
  EXPECT_THAT(out.str(),
              HasSubstr(" 3 int8                       58.3%   15.0%     33.0 (32.0-34.0)"
                        "        20.0%\n"));
  EXPECT_THAT(out.str(), HasSubstr("ghost run (all resident): the same keys, 2 other tokens"));
  std::istringstream lines(out.str());
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 90U) << line;
}

TEST(LabReport, JsonHoldsPagesAndTheGhost) {
  std::string written;
  const auto reporter = make_json_reporter([&](const std::string& text) { written = text; });
  reporter->begin({"lab", "1.0", "2026-01-02T03:04:05Z"});
  reporter->lab(paged_sample());
  reporter->finish({});
  const json rows = json::parse(written).at("labs").at(0).at("rows");
  EXPECT_TRUE(rows.at(0).at("pages").is_null());
  const json pages = rows.at(2).at("pages");
  EXPECT_EQ(pages.at("hit_rate"), 0.7);
  EXPECT_EQ(pages.at("misses"), 250);
  EXPECT_EQ(pages.at("prefetch_coverage"), 120.0 / 370.0);
  EXPECT_EQ(pages.at("stall_share"), 0.15);
  EXPECT_EQ(pages.at("ghost").at("stall_share"), 0.2);
  EXPECT_EQ(pages.at("ghost").at("other_tokens"), 2);
  EXPECT_EQ(pages.at("ghost").at("step_ms").at("median"), 33.0);
  EXPECT_TRUE(pages.at("ghost").at("missing").is_null());
}

TEST(LabReport, ANameIsCutBeforeItsBudget) {
  const run::LabRow row =
      lab_sample_row(run::LabRole::kPolicy, "quest:page=32,sinks=2,codec=int8", "12.5%");
  const std::string label = lab_label(row, 18);
  EXPECT_TRUE(label.ends_with(" 12.5%")) << label;
  EXPECT_TRUE(label.starts_with("quest:page")) << label;
}

TEST(LabReport, JsonHoldsEveryRow) {
  const json lab = json::parse(lab_document(make_json_reporter)).at("labs").at(0);
  ASSERT_EQ(lab.at("rows").size(), 5U);
  const json row = lab.at("rows").at(2);
  EXPECT_EQ(row.at("quality").at("agreement_low95"), 0.966);
  EXPECT_EQ(row.at("bytes").at("kept_per_token"), 12240.0);
  EXPECT_EQ(row.at("step_ms").at("median"), 41.0);
  EXPECT_TRUE(row.at("applied").at("acted"));
  EXPECT_FALSE(lab.at("rows").at(3).at("applied").at("acted"));
  EXPECT_EQ(lab.at("rows").at(1).at("missing"), "no weaker instruction set");
  EXPECT_FALSE(lab.at("rows").at(1).contains("quality"));
  EXPECT_FALSE(lab.at("checks_passed"));
}

TEST(LabReport, MarkdownHasATableAndNoMarkupOfNames) {
  const std::string page = lab_document(make_markdown_reporter);
  EXPECT_THAT(page, HasSubstr("| <code>int8</code> | 98.4% (96.6-99.4) | 4 | 2 |"));
  EXPECT_THAT(page, HasSubstr("did NOTHING"));
  EXPECT_THAT(page, Not(HasSubstr("<script>")));
}

TEST(LabReport, ThePageHasAPictureOfQualityOverBytes) {
  const std::string page = lab_document(make_html_reporter);
  EXPECT_THAT(page, HasSubstr("<title>int8, 6: 0.0123</title>"));
  EXPECT_THAT(page, HasSubstr("MB of K/V that a step reads"));
  EXPECT_THAT(page, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(page, Not(HasSubstr("\"nan")));
}

}  // namespace
}  // namespace kvtool::report
