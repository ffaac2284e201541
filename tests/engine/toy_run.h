// Generations of a toy model, kept in memory as references for a replay.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/memory_row.h"
#include "engine/toy_module.h"

namespace kvtool::engine {

using Rows = std::vector<std::unique_ptr<MemoryRow>>;

inline ToyModule& module_of(TorchModel& model) { return static_cast<ToyModule&>(*model.module); }

// Prompts of 3 and 5 tokens, so that the batch is padded.
inline Rows record(TorchModel& model, std::uint64_t new_tokens,
                   const cache::CacheSpec& kv_cache = {}) {
  const std::vector<Input> inputs{{{1, 2, 3}}, {{4, 5, 6, 7, 8}}};
  Rows rows;
  std::vector<format::RowSink*> sinks;
  for (const Input& input : inputs) {
    auto row = std::make_unique<MemoryRow>();
    row->recording_header.model_sha256 = model.info.weights_sha256;
    row->recording_header.vocab_size = model.info.vocab_size;
    row->recording_header.logits_dtype = model.info.logits_dtype;
    row->recording_header.top_k = 4;
    row->recording_header.logits_sample = 5;
    row->recording_header.geometry = model.info.geometry;
    row->prompt_ids = input.token_ids;
    sinks.push_back(row.get());
    rows.push_back(std::move(row));
  }
  std::ignore = generate(model, inputs, {new_tokens, true, 4, 5, kv_cache}, sinks, {});
  module_of(model).forget_passes();
  return rows;
}

inline ReplayOptions replay_options(format::ReplayMode mode, const cache::CacheSpec& kv_cache,
                                    bool parallel) {
  ReplayOptions options;
  options.mode = mode;
  options.allow_different_weights = true;
  options.kv_cache = kv_cache;
  options.parallel = parallel;
  return options;
}

struct Replayed {
  Rows rows;
  ReplayResult result;
};

// With a sink for every row; in parallel where the options say so.
inline Replayed run(TorchModel& model, const Rows& references, const ReplayOptions& options) {
  Replayed replayed;
  ReplayBatch batch;
  std::vector<format::RowSink*> sinks;
  for (const auto& reference : references) {
    batch.rows.push_back({reference.get()});
    batch.padded_length = std::max<std::uint64_t>(batch.padded_length, reference->prompt().size());
    replayed.rows.push_back(std::make_unique<MemoryRow>());
    sinks.push_back(replayed.rows.back().get());
  }
  replayed.result = options.parallel ? replay_in_parallel(model, batch, options, sinks, {})
                                     : replay(model, batch, options, sinks, {});
  return replayed;
}

}  // namespace kvtool::engine
