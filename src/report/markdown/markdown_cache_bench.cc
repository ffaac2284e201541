// What a KV cache is worth, in Markdown.
#include <fmt/format.h>

#include "cache_bench_words.h"
#include "kvtool/base/text.h"
#include "markdown/markdown_page.h"
#include "wording.h"

namespace kvtool::report {
namespace {

std::string median_and_p95(const std::vector<double>& values) {
  return fmt::format("{} ({})", three_digits(run::quantile_of(values, 0.5)),
                     three_digits(run::quantile_of(values, 0.95)));
}

std::string speed_table(const run::CacheBenchResult& result) {
  MarkdownTable table({">context", ">first token with, without (ms)",
                       ">following with: median (p95)", ">without", ">times as fast", ">whole run",
                       ">tokens without : with", ">ratio", ">N(N+1)/2 : N"});
  for (const run::CacheBenchLength& length : result.lengths) {
    table.row(
        {fmt::format("{}", length.context),
         fmt::format("{}, {}", three_digits(run::quantile_of(length.with_cache.first_ms, 0.5)),
                     three_digits(run::quantile_of(length.without_cache.first_ms, 0.5))),
         median_and_p95(length.with_cache.following_ms),
         median_and_p95(length.without_cache.following_ms),
         three_digits(length.following_speedup()), three_digits(length.total_speedup()),
         fmt::format("{} : {}", length.without_cache.tokens_passed,
                     length.with_cache.tokens_passed),
         three_digits(length.work_ratio()), three_digits(length.whole_ratio())});
  }
  return table.text();
}

std::string memory_table(const run::CacheBenchResult& result) {
  MarkdownTable table({">context", ">positions", ">K/V", ">planned", ">allocated", ">copies/step",
                       ">before", ">peak with", ">delta", ">peak without", ">delta",
                       ">tensors with, without"});
  for (const run::CacheBenchLength& length : result.lengths) {
    const run::RunMemory& with = length.with_cache.memory;
    const run::RunMemory& without = length.without_cache.memory;
    table.row({fmt::format("{}", length.context), fmt::format("{}", length.positions),
               megabytes(length.logical_bytes), megabytes(length.planned_bytes),
               megabytes(length.use.physical_bytes),
               fmt::format("{:.2f}", length.kv_copies_per_step), megabytes(with.before_bytes),
               megabytes(with.peak_bytes), megabytes(with.delta_bytes()),
               megabytes(without.peak_bytes), megabytes(without.delta_bytes()),
               megabytes(with.tensor_bytes) + ", " + megabytes(without.tensor_bytes)});
  }
  return table.text();
}

}  // namespace

void add_markdown_cache_bench(MarkdownPage& page, const run::CacheBenchResult& result) {
  std::string text = fmt::format("## K/V cache {} of {} ({}): {}\n\n", markdown_code(result.cache),
                                 markdown_text(result.model_id), markdown_text(result.dtype),
                                 result.passed() ? "PASS" : "FAIL");
  for (const std::string& line : token_lines(result)) text += "- " + escape_markdown(line) + "\n";
  text += "\n" + speed_table(result) + "K/V: " + escape_markdown(cache_formula(result)) + "\n\n" +
          memory_table(result);
  for (const std::string& line : measured_lines(result))
    text += "- " + escape_markdown(line) + "\n";
  page.add(text + "\n");
}

}  // namespace kvtool::report
