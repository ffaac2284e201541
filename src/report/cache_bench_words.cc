#include "cache_bench_words.h"

#include <fmt/format.h>

#include <cmath>

#include "kvtool/base/text.h"
#include "wording.h"

namespace kvtool::report {
namespace {

std::string why_judged(const run::CacheBenchResult& result, const run::CacheBenchLength& length) {
  const run::TokenDifference& difference = *length.difference;
  if (length.lossy()) return "the cache changes rows, so that is no failure";
  if (result.float32) return "in float32 that is a FAILURE";
  if (difference.verdict == "hard_flip") {
    return "the gap of the logits is more than rounding explains: a FAILURE";
  }
  return fmt::format("{}, which rounding to {} explains", difference.verdict, result.dtype);
}

std::string difference_line(const run::CacheBenchResult& result,
                            const run::CacheBenchLength& length) {
  const run::TokenDifference& difference = *length.difference;
  return fmt::format(
      "Context {}: token {} is the first that differs, {} with the cache, {} without. Gap of "
      "their logits {} ({} ulp), explained by noise up to {}: {}",
      length.context, difference.index, token_quote(difference.with_cache, difference.with_text),
      token_quote(difference.without_cache, difference.without_text), three_digits(difference.gap),
      three_digits(difference.gap / difference.ulp), three_digits(difference.explained),
      why_judged(result, length));
}

}  // namespace

std::string three_digits(double value) {
  if (!std::isfinite(value)) return "n/a";
  if (value == 0.0) return "0";
  const int before = static_cast<int>(std::floor(std::log10(std::abs(value)))) + 1;
  return fmt::format("{:.{}f}", value, std::min(6, std::max(0, 3 - before)));
}

std::string cache_formula(const run::CacheBenchResult& result) {
  return fmt::format("{} = {} bytes a position", result.formula, result.position_bytes);
}

std::vector<std::string> token_lines(const run::CacheBenchResult& result) {
  std::vector<std::string> lines;
  for (const run::CacheBenchLength& length : result.lengths) {
    if (length.difference) lines.push_back(difference_line(result, length));
    if (!length.as_planned()) {
      lines.push_back(fmt::format("Context {}: {} bytes are allocated and {} planned: a FAILURE",
                                  length.context, length.use.physical_bytes, length.planned_bytes));
    }
  }
  if (lines.empty()) {
    lines.push_back(fmt::format("Tokens: identical with and without the cache, {} at {}",
                                counted(result.new_tokens, "token"),
                                counted(result.lengths.size(), "context")));
  }
  return lines;
}

std::vector<std::string> measured_lines(const run::CacheBenchResult& result) {
  std::vector<std::string> lines = {
      fmt::format("Prompts: {}. {} each, {}, both sides in turn; a first round that does not count "
                  "shows tokens and memory.",
                  result.prompts, counted(result.new_tokens, "new token"),
                  counted(result.repeats, "repeat")),
      "Without a cache every token is computed by a pass over all tokens before it.",
      "Copies: tensors of exactly the size of K or V of a layer that attention allocates in a "
      "step, as a share of the K and V of all layers. What is copied into work space that is "
      "allocated once is not seen."};
  if (!result.lengths.empty()) {
    lines.push_back(fmt::format(
        "Memory: {}, before a run (the model is in it), its most, and what that is more; and the "
        "most that tensors of the run took at a time, as torch's allocator counts them.",
        result.lengths.front().with_cache.memory.source));
  }
  for (const std::string& note : result.notes) lines.push_back("Note: " + note);
  return lines;
}

}  // namespace kvtool::report
