// Measures what a KV cache is worth: the same prompts with a cache and without one, where every
// token comes from a pass over all tokens before it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/cache/cache_use.h"
#include "kvtool/format/geometry.h"
#include "kvtool/run/observer.h"
#include "kvtool/run/request.h"
#include "kvtool/run/services.h"

namespace kvtool::run {

inline constexpr std::uint64_t kCacheBenchContexts[] = {64, 128, 256, 512, 1024};

struct CacheBenchRequest {
  // Models, device, kv_cache and max_new_tokens of it; prompts are those below.
  Request run;
  // Tokens of the prompts. Empty: kCacheBenchContexts, the last one cut to what the model takes.
  std::vector<std::uint64_t> contexts;
  std::filesystem::path text;  // whose first tokens the prompts are; empty: ids by a fixed rule
  std::uint64_t repeats = 3;   // that count
};

// Memory of the device over a run.
struct RunMemory {
  std::string source;              // what the next two are: "resident set of the process"
  std::uint64_t before_bytes = 0;  // the model is in it
  std::uint64_t peak_bytes = 0;
  std::uint64_t tensor_bytes = 0;  // the most that tensors of the run alone took at a time

  [[nodiscard]] std::uint64_t delta_bytes() const { return peak_bytes - before_bytes; }
};

// One way to generate, at one context.
struct CacheBenchSide {
  std::vector<double> first_ms;      // until token 0, of each repeat
  std::vector<double> following_ms;  // of every later token of every repeat
  std::vector<double> total_ms;      // of each repeat
  std::uint64_t tokens_passed = 0;   // through the model, for all tokens of a repeat
  RunMemory memory;                  // of a run of its own, which no time is taken of
  bool repeatable = true;            // all repeats chose the same tokens
};

// Nearest rank, as analysis::quantile(); NaN of nothing.
[[nodiscard]] double quantile_of(std::vector<double> values, double q);

// The first token that the two sides chose differently, seen on the same context.
struct TokenDifference {
  std::uint64_t index = 0;  // 0: the prefill's
  std::int32_t with_cache = -1;
  std::int32_t without_cache = -1;
  std::string with_text;  // token bytes
  std::string without_text;
  std::string verdict;     // "tie", "noise", "near_tie", "hard_flip"
  double gap = 0.0;        // between the two logits, with the cache; NaN where it is unknown
  double ulp = 0.0;        // of those logits
  double explained = 0.0;  // the largest gap that the noise of the logits explains; NaN: unknown
};

struct CacheBenchLength {
  std::uint64_t context = 0;    // tokens of the prompt
  std::uint64_t positions = 0;  // that the cache has at the end: the last token is not fed
  CacheBenchSide with_cache;
  CacheBenchSide without_cache;
  cache::CacheUse use;
  std::uint64_t planned_bytes = 0;  // of plan_cache()
  std::uint64_t logical_bytes = 0;  // K and V as large as the model makes them
  double kv_copies_per_step = 0.0;  // tensors of the size of K or V that attention allocates
  std::optional<TokenDifference> difference;

  // The cache has kept rows otherwise than the model made them, or shown a query only some of them:
  // tokens may differ.
  [[nodiscard]] bool lossy() const {
    return use.applied_rows > 0 || use.seen_keys < use.visible_keys;
  }
  [[nodiscard]] bool as_planned() const { return use.physical_bytes == planned_bytes; }
  // How many times as fast as without a cache: following tokens, and the whole run; medians.
  [[nodiscard]] double following_speedup() const;
  [[nodiscard]] double total_speedup() const;
  // What theory says of the work: tokens through the model without a cache and with one.
  [[nodiscard]] double work_ratio() const;
  // The same of N = `positions` tokens from the first one on: N (N + 1) / 2 against N.
  [[nodiscard]] double whole_ratio() const;
};

struct CacheBenchResult {
  std::string model_slug;
  std::string model_id;
  std::string dtype;
  std::string cache;    // spec
  std::string prompts;  // where they come from, in words
  std::uint64_t new_tokens = 0;
  std::uint64_t repeats = 0;
  bool float32 = false;              // then tokens must be equal, unless the cache changes rows
  std::string formula;               // "12 layers x 12 heads x 64 numbers x 2 (K, V) x 4 bytes"
  std::uint64_t position_bytes = 0;  // what that is
  std::vector<CacheBenchLength> lengths;
  std::vector<std::string> notes;

  // Whether a difference is none that precision or the cache explains.
  [[nodiscard]] bool fails(const CacheBenchLength& length) const;
  [[nodiscard]] bool passed() const;
};

// Tokens that go through the model until `new_tokens` are there. With a cache the prompt and then
// each token but the last, once; without one all tokens so far, for each new one: N (N + 1) / 2
// against N from a prompt of one token on.
[[nodiscard]] std::uint64_t tokens_with_cache(std::uint64_t context, std::uint64_t new_tokens);
[[nodiscard]] std::uint64_t tokens_without_cache(std::uint64_t context, std::uint64_t new_tokens);

// Bytes of K and V of one position in words; a sum where layers differ.
[[nodiscard]] std::string position_formula(const format::Geometry& geometry);

// `length` ids by a rule that only knows the size of the vocabulary.
[[nodiscard]] std::vector<std::int32_t> ruled_ids(std::uint64_t length, std::uint32_t vocab_size);

// Both sides take turns, and the first, uncounted round shows tokens and memory. True where every
// result passed. Error kUsage for lengths that the model does not take.
[[nodiscard]] bool run_cache_bench(const CacheBenchRequest& request, const Services& services,
                                   Observer& observer);

}  // namespace kvtool::run
