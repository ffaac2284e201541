// What a KV cache is worth, in the JSON report.
#include "json/json_values.h"
#include "kvtool/run/cache_bench.h"

namespace kvtool::report {
namespace {

Json json_times(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double value : values) list.push_back(json_rounded(value));
  return {{"median", json_number(run::quantile_of(values, 0.5))},
          {"p95", json_number(run::quantile_of(values, 0.95))},
          {"values", std::move(list)}};
}

Json json_side(const run::CacheBenchSide& side) {
  return {{"first_ms", json_times(side.first_ms)},
          {"following_ms", json_times(side.following_ms)},
          {"total_ms", json_times(side.total_ms)},
          {"tokens_passed", side.tokens_passed},
          {"repeatable", side.repeatable},
          {"memory",
           {{"source", json_known(side.memory.source)},
            {"before_bytes", side.memory.before_bytes},
            {"peak_bytes", side.memory.peak_bytes},
            {"delta_bytes", side.memory.delta_bytes()},
            {"tensor_bytes", side.memory.tensor_bytes}}}};
}

Json json_difference(const run::CacheBenchLength& length) {
  if (!length.difference) return nullptr;
  const run::TokenDifference& difference = *length.difference;
  return {{"index", difference.index},
          {"with_cache", json_token(difference.with_cache)},
          {"without_cache", json_token(difference.without_cache)},
          {"with_text", json_text(difference.with_text)},
          {"without_text", json_text(difference.without_text)},
          {"class", difference.verdict},
          {"gap", json_number(difference.gap)},
          {"ulp", json_number(difference.ulp)},
          {"noise_bound", json_number(difference.explained)}};
}

Json json_length(const run::CacheBenchResult& result, const run::CacheBenchLength& length) {
  return {{"context", length.context},
          {"positions", length.positions},
          {"with_cache", json_side(length.with_cache)},
          {"without_cache", json_side(length.without_cache)},
          {"following_speedup", json_number(length.following_speedup())},
          {"total_speedup", json_number(length.total_speedup())},
          {"work_ratio", json_number(length.work_ratio())},
          {"whole_ratio", json_number(length.whole_ratio())},
          {"kv_bytes", length.logical_bytes},
          {"planned_bytes", length.planned_bytes},
          {"allocated_bytes", length.use.physical_bytes},
          {"applied_rows", length.use.applied_rows},
          {"kv_copies_per_step", json_number(length.kv_copies_per_step)},
          {"difference", json_difference(length)},
          {"failed", result.fails(length)}};
}

}  // namespace

Json json_cache_bench(const run::CacheBenchResult& result) {
  Json lengths = Json::array();
  for (const run::CacheBenchLength& length : result.lengths) {
    lengths.push_back(json_length(result, length));
  }
  Json notes = Json::array();
  for (const std::string& note : result.notes) notes.push_back(json_text(note));
  return {{"model", {{"slug", json_text(result.model_slug)}, {"id", json_text(result.model_id)}}},
          {"dtype", json_known(result.dtype)},
          {"cache", json_text(result.cache)},
          {"prompts", json_text(result.prompts)},
          {"new_tokens", result.new_tokens},
          {"repeats", result.repeats},
          {"position_formula", json_text(result.formula)},
          {"position_bytes", result.position_bytes},
          {"lengths", std::move(lengths)},
          {"notes", std::move(notes)},
          {"passed", result.passed()}};
}

}  // namespace kvtool::report
