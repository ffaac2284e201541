// What a KV cache is worth, on the console.
#include "cache_bench_words.h"
#include "console/console_page.h"
#include "wording.h"

namespace kvtool::report {
namespace {

void show_latency(ConsolePage& page, const run::CacheBenchResult& result) {
  page.line("");
  page.line("{:>8}{:>21}{:>22}{:>22}", "", "first token, ms", "following with, ms",
            "following without, ms");
  page.line("{:>8}{:>10}{:>11}{:>11}{:>11}{:>11}{:>11}", "context", "with", "without", "median",
            "p95", "median", "p95");
  for (const run::CacheBenchLength& length : result.lengths) {
    const auto cell = [](const std::vector<double>& values, double q) {
      return three_digits(run::quantile_of(values, q));
    };
    page.line("{:>8}{:>10}{:>11}{:>11}{:>11}{:>11}{:>11}", length.context,
              cell(length.with_cache.first_ms, 0.5), cell(length.without_cache.first_ms, 0.5),
              cell(length.with_cache.following_ms, 0.5), cell(length.with_cache.following_ms, 0.95),
              cell(length.without_cache.following_ms, 0.5),
              cell(length.without_cache.following_ms, 0.95));
  }
}

void show_speedup(ConsolePage& page, const run::CacheBenchResult& result) {
  page.line("");
  page.line("{:>8}{:>24}{:>32}{:>15}", "", "times as fast with", "tokens through the model",
            "N(N+1)/2 : N");
  page.line("{:>8}{:>12}{:>12}{:>11}{:>11}{:>10}{:>15}", "context", "following", "whole run",
            "without", "with", "ratio", "ratio");
  for (const run::CacheBenchLength& length : result.lengths) {
    page.line("{:>8}{:>12}{:>12}{:>11}{:>11}{:>10}{:>15}", length.context,
              three_digits(length.following_speedup()), three_digits(length.total_speedup()),
              length.without_cache.tokens_passed, length.with_cache.tokens_passed,
              three_digits(length.work_ratio()), three_digits(length.whole_ratio()));
  }
}

void show_kv(ConsolePage& page, const run::CacheBenchResult& result) {
  page.line("");
  page.wrapped_line("K/V: " + cache_formula(result), 5);
  page.line("{:>8}{:>11}{:>13}{:>13}{:>13}{:>13}", "context", "positions", "K/V", "planned",
            "allocated", "copies/step");
  for (const run::CacheBenchLength& length : result.lengths) {
    page.line("{:>8}{:>11}{:>13}{:>13}{:>13}{:>13.2f}", length.context, length.positions,
              megabytes(length.logical_bytes), megabytes(length.planned_bytes),
              megabytes(length.use.physical_bytes), length.kv_copies_per_step);
  }
}

void show_memory(ConsolePage& page, const run::CacheBenchResult& result) {
  page.line("");
  page.line("{:>8}{:>9}{:>13}{:>13}{:>13}{:>13}", "context", "cache", "before", "peak", "delta",
            "tensors");
  for (const run::CacheBenchLength& length : result.lengths) {
    for (const bool with_cache : {true, false}) {
      const run::RunMemory& memory = (with_cache ? length.with_cache : length.without_cache).memory;
      page.line("{:>8}{:>9}{:>13}{:>13}{:>13}{:>13}", length.context,
                with_cache ? "with" : "without", megabytes(memory.before_bytes),
                megabytes(memory.peak_bytes), megabytes(memory.delta_bytes()),
                megabytes(memory.tensor_bytes));
    }
  }
}

}  // namespace

void show_cache_bench(ConsolePage& page, const run::CacheBenchResult& result) {
  if (!page.options().quiet) {
    page.line("");
    page.wrapped_line(
        page.painted(Paint::kBold, fmt::format("K/V cache {} of {} ({})", one_line(result.cache),
                                               one_line(result.model_id), one_line(result.dtype))),
        2);
    for (const std::string& line : measured_lines(result)) page.wrapped_line(one_line(line), 2);
  }
  show_latency(page, result);
  show_speedup(page, result);
  show_kv(page, result);
  show_memory(page, result);
  page.line("");
  for (const std::string& line : token_lines(result)) page.wrapped_line(line, 2);
  page.line("Result: {}", result.passed() ? page.painted(Paint::kGood, "PASS")
                                          : page.painted(Paint::kBad, "FAIL"));
}

}  // namespace kvtool::report
