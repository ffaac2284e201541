// What a KV cache is worth, with the speed-up over contexts as a picture.
#include <fmt/format.h>

#include "cache_bench_words.h"
#include "html/escape.h"
#include "html/sections.h"
#include "html/speedup_chart.h"
#include "wording.h"

namespace kvtool::report::html {
namespace {

std::string cache_cell(const std::string& value) {
  return "<td class=\"number\">" + text(value) + "</td>";
}

std::string cache_table(const std::vector<std::string>& columns, const std::string& rows) {
  std::string head;
  for (const std::string& column : columns) {
    head += "<th class=\"number\">" + text(column) + "</th>";
  }
  return "<div class=\"scroll\"><table><thead><tr>" + head + "</tr></thead><tbody>\n" + rows +
         "</tbody></table></div>\n";
}

std::string cache_row(const run::CacheBenchLength& length, const std::vector<std::string>& cells) {
  std::string line = fmt::format("<tr><th scope=\"row\" class=\"number\">{}</th>", length.context);
  for (const std::string& cell : cells) line += cache_cell(cell);
  return line + "</tr>\n";
}

std::string speed_rows(const run::CacheBenchResult& result) {
  std::string rows;
  for (const run::CacheBenchLength& length : result.lengths) {
    const auto ms = [](const std::vector<double>& values, double q) {
      return three_digits(run::quantile_of(values, q));
    };
    const run::CacheBenchSide& with = length.with_cache;
    const run::CacheBenchSide& without = length.without_cache;
    rows += cache_row(
        length,
        {ms(with.first_ms, 0.5), ms(without.first_ms, 0.5), ms(with.following_ms, 0.5),
         ms(with.following_ms, 0.95), ms(without.following_ms, 0.5), ms(without.following_ms, 0.95),
         three_digits(length.following_speedup()), three_digits(length.total_speedup()),
         fmt::format("{} : {}", without.tokens_passed, with.tokens_passed)});
  }
  return rows;
}

std::string memory_rows(const run::CacheBenchResult& result) {
  std::string rows;
  for (const run::CacheBenchLength& length : result.lengths) {
    const run::RunMemory& with = length.with_cache.memory;
    const run::RunMemory& without = length.without_cache.memory;
    rows +=
        cache_row(length, {fmt::format("{}", length.positions), megabytes(length.logical_bytes),
                           megabytes(length.planned_bytes), megabytes(length.use.physical_bytes),
                           fmt::format("{:.2f}", length.kv_copies_per_step),
                           megabytes(with.peak_bytes), megabytes(with.delta_bytes()),
                           megabytes(without.peak_bytes), megabytes(without.delta_bytes()),
                           megabytes(with.tensor_bytes), megabytes(without.tensor_bytes)});
  }
  return rows;
}

std::string speedup_picture(const run::CacheBenchResult& result) {
  std::vector<double> contexts;
  ChartLine following{"following token", "var(--mode-inject)", false, {}};
  ChartLine whole{"whole run", "var(--mode-forced)", false, {}};
  ChartLine work{"theory: tokens of the run", "var(--mode-forced)", true, {}};
  ChartLine theory{"theory: N(N+1)/2 : N", "var(--quiet)", true, {}};
  for (const run::CacheBenchLength& length : result.lengths) {
    contexts.push_back(static_cast<double>(length.context));
    following.values.push_back(length.following_speedup());
    whole.values.push_back(length.total_speedup());
    work.values.push_back(length.work_ratio());
    theory.values.push_back(length.whole_ratio());
  }
  return "<figure class=\"chart\">" +
         logarithmic_chart(contexts, {following, whole, work, theory},
                           "How many times as fast with a cache, over the tokens of the prompt",
                           "tokens of the prompt") +
         "</figure>\n";
}

}  // namespace

std::string cache_bench_section(const run::CacheBenchResult& result) {
  std::string section = fmt::format(
      "<section class=\"card\">\n<header class=\"verdict\"><div class=\"badge-line\">{}<div>"
      "<h2>K/V cache <code>{}</code> of {}</h2><p class=\"pair\">{}</p></div></div>",
      badge(result.passed() ? Outcome::kPass : Outcome::kFail), text(result.cache),
      text(result.model_id), text(result.dtype));
  for (const std::string& line : token_lines(result)) {
    section += "<p class=\"finding\">" + text(line) + "</p>";
  }
  section += "</header>\n<h3>Times as fast with a cache</h3>\n" + speedup_picture(result);
  section += cache_table(
      {"Context", "First token with, ms", "without", "Following with, ms: median", "p95",
       "without: median", "p95", "Times as fast", "Whole run", "Tokens without : with"},
      speed_rows(result));
  section += "<h3>Memory</h3>\n<p>K/V: " + text(cache_formula(result)) + "</p>\n";
  section += cache_table({"Context", "Positions", "K/V", "Planned", "Allocated", "Copies per step",
                          "Peak with", "Delta", "Peak without", "Delta", "Tensors with", "without"},
                         memory_rows(result));
  section += "<ul class=\"notes\">\n";
  for (const std::string& line : measured_lines(result)) {
    section += "<li>" + text(line) + "</li>\n";
  }
  return section + "</ul>\n</section>\n";
}

}  // namespace kvtool::report::html
