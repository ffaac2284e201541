// A row in memory: takes what a run hands to a sink and gives it back as a
// reference.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "kvtool/format/row.h"

namespace kvtool::engine {

class MemoryRow : public format::RowSink, public format::RowSource {
 public:
  format::RecordingHeader recording_header;
  std::vector<std::int32_t> prompt_ids;
  bool with_step_kv = true;
  std::vector<std::vector<std::byte>> prompt_keys;  // per layer
  std::vector<std::vector<std::byte>> prompt_values;
  format::StepStats first;
  std::vector<format::StepStats> steps;
  std::vector<std::vector<std::byte>> deltas;      // per step
  std::vector<std::vector<std::byte>> final_keys;  // per layer
  std::vector<std::vector<std::byte>> final_values;

  [[nodiscard]] std::vector<std::int32_t> fed_tokens() const {
    std::vector<std::int32_t> tokens;
    for (const format::StepStats& step : steps) tokens.push_back(step.input_token);
    return tokens;
  }

  [[nodiscard]] Needs needs() const override { return {true, true, true}; }
  void on_prefill_layer(std::uint32_t, std::span<const std::byte> key,
                        std::span<const std::byte> value) override {
    prompt_keys.emplace_back(key.begin(), key.end());
    prompt_values.emplace_back(value.begin(), value.end());
  }
  void on_prefill_end(const format::StepStats& stats) override { first = stats; }
  void on_step(std::uint64_t, const format::StepStats& stats,
               std::span<const std::byte> delta) override {
    steps.push_back(stats);
    deltas.emplace_back(delta.begin(), delta.end());
  }
  void on_final_layer(std::uint32_t, std::span<const std::byte> key,
                      std::span<const std::byte> value) override {
    final_keys.emplace_back(key.begin(), key.end());
    final_values.emplace_back(value.begin(), value.end());
  }
  void on_end(const format::RowEnd&) override {}

  [[nodiscard]] const format::RecordingHeader& header() const override { return recording_header; }
  [[nodiscard]] std::span<const std::int32_t> prompt() const override { return prompt_ids; }
  [[nodiscard]] std::uint64_t num_steps() const override { return steps.size(); }
  [[nodiscard]] bool has_prefill_kv() const override { return true; }
  [[nodiscard]] bool has_step_kv() const override { return with_step_kv; }
  [[nodiscard]] format::StepStats prefill_stats() const override { return first; }
  void read_prefill_layer(std::uint32_t layer, std::span<std::byte> key,
                          std::span<std::byte> value) const override {
    std::ranges::copy(std::span(prompt_keys.at(layer)).first(key.size()), key.begin());
    std::ranges::copy(std::span(prompt_values.at(layer)).first(value.size()), value.begin());
  }
  [[nodiscard]] format::StepStats read_step(std::uint64_t step,
                                            std::span<std::byte> delta) const override {
    if (!delta.empty()) std::memcpy(delta.data(), deltas.at(step).data(), delta.size());
    return steps.at(step);
  }
};

}  // namespace kvtool::engine
