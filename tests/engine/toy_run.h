// Generations of a toy model, kept in memory as references for a replay.
#pragma once

#include <cstdint>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "memory_row.h"
#include "toy_module.h"

namespace kvtool::engine {

using Rows = std::vector<std::unique_ptr<MemoryRow>>;

inline ToyModule& module_of(TorchModel& model) { return static_cast<ToyModule&>(*model.module); }

// Prompts of 3 and 5 tokens, so that the batch is padded.
inline Rows record(TorchModel& model, std::uint64_t new_tokens) {
  const std::vector<Input> inputs{{{1, 2, 3}}, {{4, 5, 6, 7, 8}}};
  Rows rows;
  std::vector<format::RowSink*> sinks;
  for (const Input& input : inputs) {
    auto row = std::make_unique<MemoryRow>();
    row->recording_header.model_sha256 = model.info.weights_sha256;
    row->recording_header.vocab_size = model.info.vocab_size;
    row->recording_header.logits_dtype = model.info.logits_dtype;
    row->recording_header.top_k = 4;
    row->recording_header.geometry = model.info.geometry;
    row->prompt_ids = input.token_ids;
    sinks.push_back(row.get());
    rows.push_back(std::move(row));
  }
  std::ignore = generate(model, inputs, {new_tokens, true, 4}, sinks, {});
  module_of(model).fed.clear();
  return rows;
}

}  // namespace kvtool::engine
