// What the reports show of a measured KV cache.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "kvtool/run/cache_bench.h"
#include "report/cache_bench_words.h"
#include "sample_results.h"

namespace kvtool::report {
namespace {

using nlohmann::json;
using testing::AnyOf;
using testing::HasSubstr;
using testing::Not;

// Two contexts; in the second one token 3 differs where `verdict` says why.
run::CacheBenchResult cache_bench_result(const std::string& verdict = "") {
  run::CacheBenchResult result;
  result.model_slug = "tiny";
  result.model_id = "Org/Tiny";
  result.dtype = "bfloat16";
  result.cache = "contiguous";
  result.prompts = "token ids by a fixed rule";
  result.new_tokens = 4;
  result.repeats = 2;
  result.formula = "2 layers x 1 K/V heads x 4 numbers x 2 (K, V) x 2 bytes";
  result.position_bytes = 32;
  for (const std::uint64_t context : {64U, 128U}) {
    run::CacheBenchLength& length = result.lengths.emplace_back();
    length.context = context;
    length.positions = context + 3;
    length.with_cache = {{10, 12}, {1, 2, 1.5, 9, 1, 1}, {15, 20}, context + 3, {}, true};
    length.without_cache = {{11, 13}, {20, 30, 25, 21, 22, 23}, {80, 90}, 4 * context + 6, {},
                            true};
    length.with_cache.memory = {"resident set of the process", 1'000'000, 3'500'000, 2'000'000};
    length.without_cache.memory = {"resident set of the process", 1'000'000, 3'000'000, 1'500'000};
    length.use.physical_bytes = length.planned_bytes = length.logical_bytes = 32 * (context + 3);
  }
  if (!verdict.empty()) {
    result.lengths[1].difference = {3, 7, 8, " a", hostile_text(), verdict, 0.5, 0.25, 0.75};
  }
  return result;
}

std::string console(const run::CacheBenchResult& result) {
  std::ostringstream out;
  make_console_reporter(out, {})->cache_bench(result);
  return out.str();
}

std::string document(std::unique_ptr<Reporter> (*make)(std::function<void(const std::string&)>),
                     const run::CacheBenchResult& result) {
  std::string written;
  const auto reporter = make([&](const std::string& text) { written = text; });
  reporter->begin({"bench cache", "1.0", "2026-01-02T03:04:05Z"});
  reporter->cache_bench(result);
  reporter->finish({});
  return written;
}

TEST(CacheBenchReport, TheConsoleShowsEveryTable) {
  const std::string shown = console(cache_bench_result());
  // Nearest rank: the lower median of six.
  EXPECT_THAT(shown, HasSubstr("      64      10.0       11.0       1.00       9.00       22.0"
                               "       30.0\n"));
  EXPECT_THAT(shown, HasSubstr("      64        22.0        5.33        262         67      3.91"
                               "           34.0\n"));
  EXPECT_THAT(shown, HasSubstr("x 2 bytes = 32 bytes a\n"));
  EXPECT_THAT(shown, HasSubstr("     128     with      1.00 MB      3.50 MB      2.50 MB"
                               "      2.00 MB\n"));
  EXPECT_THAT(shown, HasSubstr("Tokens: identical with and without the cache, 4 tokens at 2"));
  EXPECT_THAT(shown, HasSubstr("Result: PASS"));
  std::istringstream lines(shown);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 80U) << line;
}

TEST(CacheBenchReport, ADifferenceSaysWhetherItIsAFailure) {
  EXPECT_THAT(token_lines(cache_bench_result("noise")).at(0),
              HasSubstr("noise, which rounding to bfloat16 explains"));
  EXPECT_THAT(token_lines(cache_bench_result("hard_flip")).at(0), HasSubstr("a FAILURE"));
  run::CacheBenchResult exact = cache_bench_result("noise");
  exact.float32 = true;
  EXPECT_THAT(token_lines(exact).at(0), HasSubstr("in float32 that is a FAILURE"));
  exact.lengths[1].use.applied_rows = 1;
  EXPECT_THAT(token_lines(exact).at(0), HasSubstr("the cache changes rows, so that is no failure"));
  EXPECT_THAT(token_lines(exact).at(0), HasSubstr("Gap of their logits 0.500 (2.00 ulp)"));
}

TEST(CacheBenchReport, BytesThatNobodyPlannedAreAFailure) {
  run::CacheBenchResult result = cache_bench_result();
  result.lengths[0].planned_bytes = 1;
  EXPECT_THAT(token_lines(result).at(0), HasSubstr("2144 bytes are allocated and 1 planned"));
  EXPECT_THAT(console(result), HasSubstr("Result: FAIL"));
}

TEST(CacheBenchReport, JsonHoldsEveryFigure) {
  const json bench = json::parse(document(make_json_reporter, cache_bench_result("noise")))
                         .at("cache_benches")
                         .at(0);
  EXPECT_EQ(bench.at("passed"), true);
  const json length = bench.at("lengths").at(1);
  EXPECT_EQ(length.at("with_cache").at("following_ms").at("median"), 1.0);
  EXPECT_EQ(length.at("with_cache").at("following_ms").at("p95"), 9.0);
  EXPECT_EQ(length.at("with_cache").at("memory").at("delta_bytes"), 2'500'000);
  EXPECT_EQ(length.at("following_speedup"), 22.0);
  EXPECT_EQ(length.at("difference").at("class"), "noise");
  EXPECT_EQ(length.at("difference").at("with_cache"), 7);
  EXPECT_EQ(bench.at("lengths").at(0).at("difference"), nullptr);
}

TEST(CacheBenchReport, MarkdownHasBothTablesAndNoMarkupOfTokens) {
  const std::string page = document(make_markdown_reporter, cache_bench_result("hard_flip"));
  EXPECT_THAT(page, HasSubstr("FAIL"));
  EXPECT_THAT(page, HasSubstr("| 64 | 10.0, 11.0 | 1.00 (9.00) | 22.0 (30.0) | 22.0 | 5.33 |"));
  EXPECT_THAT(page, HasSubstr("Copies: tensors of exactly the size"));  // whole, not cut
  EXPECT_THAT(page, HasSubstr("once is not seen"));
  EXPECT_THAT(page, Not(HasSubstr("<script>")));
}

TEST(CacheBenchReport, ThePageHasAPictureOfTheSpeedup) {
  const std::string page = document(make_html_reporter, cache_bench_result("hard_flip"));
  EXPECT_THAT(page, HasSubstr("<svg viewBox=\"0 0 760 330\""));
  EXPECT_THAT(page, HasSubstr("<title>following token, 64: 22</title>"));
  EXPECT_THAT(page, HasSubstr("<title>theory: N(N+1)/2 : N, 128: 66</title>"));
  EXPECT_THAT(page, HasSubstr("✗ FAIL"));
  EXPECT_THAT(page, Not(HasSubstr("<script>alert")));
}

TEST(CacheBenchReport, ThePictureOfNothingAndOfOneContextIsDrawn) {
  run::CacheBenchResult result = cache_bench_result();
  result.lengths.resize(1);
  EXPECT_THAT(document(make_html_reporter, result),
              Not(AnyOf(HasSubstr("\"nan"), HasSubstr(",nan"))));
  result.lengths.clear();
  EXPECT_THAT(document(make_html_reporter, result), HasSubstr("kvtool bench cache"));
}

TEST(ThreeDigits, KeepsThem) {
  EXPECT_EQ(three_digits(0.012345), "0.0123");
  EXPECT_EQ(three_digits(1.0), "1.00");
  EXPECT_EQ(three_digits(512.5), "512");
  EXPECT_EQ(three_digits(12345.0), "12345");
  EXPECT_EQ(three_digits(0.0), "0");
  EXPECT_EQ(three_digits(std::nan("")), "n/a");
}

}  // namespace
}  // namespace kvtool::report
