// A row of a recording in memory, and the geometries of the comparison's tests.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "kvtool/analysis/row_comparison.h"

namespace kvtool::analysis {

using format::Geometry;
using format::LayerGeometry;
using format::RecordingHeader;
using format::StepStats;

inline constexpr std::uint64_t kPromptLength = 3;

// Two layers of different types and widths: K and V rows of 6, 6, 8 and 2
// bytes, so that every row but the last is followed by an alignment gap.
inline Geometry mixed_geometry() {
  return Geometry({LayerGeometry{DType::kBFloat16, DType::kBFloat16, 1, 3, 3},
                   LayerGeometry{DType::kFloat32, DType::kFloat8E4M3, 2, 1, 1}});
}

// One layer whose K and V follow each other without a gap.
inline Geometry dense_geometry() {
  return Geometry({LayerGeometry{DType::kBFloat16, DType::kBFloat16, 1, 8, 8}});
}

inline StepStats stats_for(std::int32_t token) {
  StepStats stats;
  stats.token = token;
  stats.logsumexp = 20.0;
  stats.logits_digest = 100 + static_cast<std::uint64_t>(token);
  stats.top_ids = {token, token + 1};
  stats.top_logits = {17.0F, 16.875F};
  return stats;
}

// A row in memory; serves as the reference and as what is fed to the sink.
class MemoryRow final : public format::RowSource {
 public:
  struct Layer {
    std::vector<std::byte> key;
    std::vector<std::byte> value;
  };

  MemoryRow(Geometry geometry, std::uint64_t steps) {
    header_.geometry = std::move(geometry);
    header_.logits_dtype = DType::kBFloat16;
    header_.vocab_size = 1000;
    header_.top_k = 2;
    header_.prompt_length = kPromptLength;
    for (const LayerGeometry& layer : header_.geometry.layers()) {
      prefill.push_back({ones(layer.key_dtype, layer.key_bytes() * kPromptLength),
                         ones(layer.value_dtype, layer.value_bytes() * kPromptLength)});
    }
    for (std::uint64_t i = 0; i <= steps; ++i) {
      stats.push_back(stats_for(static_cast<std::int32_t>(10 * i)));
      if (i > 0) stats.back().input_token = stats[i - 1].token;
    }
    for (std::uint64_t step = 0; step < steps; ++step) deltas.push_back(delta_of_ones());
  }

  [[nodiscard]] const RecordingHeader& header() const override { return header_; }
  [[nodiscard]] std::span<const std::int32_t> prompt() const override { return prompt_; }
  [[nodiscard]] std::uint64_t num_steps() const override { return deltas.size(); }
  [[nodiscard]] bool has_prefill_kv() const override { return prefill_kv; }
  [[nodiscard]] bool has_step_kv() const override { return step_kv; }
  [[nodiscard]] StepStats prefill_stats() const override { return stats.front(); }
  void read_prefill_layer(std::uint32_t layer, std::span<std::byte> key,
                          std::span<std::byte> value) const override {
    ++reads;
    copy(prefill.at(layer).key, key);
    copy(prefill.at(layer).value, value);
  }
  [[nodiscard]] StepStats read_step(std::uint64_t step, std::span<std::byte> delta) const override {
    ++reads;
    if (!delta.empty()) {
      EXPECT_TRUE(step_kv) << "K/V of a step was asked of a row that has none";
      copy(deltas.at(step), delta);
    }
    return stats.at(step + 1);
  }

  // `reference`: is handed over as a replay does that has read it.
  void feed(format::RowSink& sink, const MemoryRow* reference = nullptr) const {
    const format::RowSink::Needs needs = sink.needs();
    if (needs.prefill_kv) {
      for (std::uint32_t layer = 0; layer < prefill.size(); ++layer) {
        if (reference != nullptr) {
          const Layer& recorded = reference->prefill[layer];
          sink.on_reference_layer(layer, recorded.key, recorded.value);
        }
        sink.on_prefill_layer(layer, prefill[layer].key, prefill[layer].value);
      }
    }
    sink.on_prefill_end(stats.front());
    for (std::uint64_t step = 0; step < deltas.size(); ++step) {
      const std::span<const std::byte> delta = deltas[step];
      if (reference != nullptr) {
        sink.on_reference_step(step, reference->stats[step + 1], reference->deltas[step]);
      }
      sink.on_step(step, stats[step + 1], needs.step_kv ? delta : delta.first(0));
    }
    sink.on_end({.stop_reason = format::StopReason::kEndOfSequence,
                 .prefill_seconds = 0.5,
                 .decode_seconds = 1.5});
  }

  // Every token has eight best logits, 17, 16.5, 16, ..., and a sample of eight.
  void hold_sample() {
    header_.top_k = header_.logits_sample = 8;
    for (StepStats& each : stats) {
      each.top_ids.clear();
      each.top_logits.clear();
      for (std::int32_t i = 0; i < 8; ++i) {
        each.top_ids.push_back(each.token + i);
        each.top_logits.push_back(17.0F - 0.5F * static_cast<float>(i));
      }
      each.sampled_logits = {1.0F, 3.0F, 1.0F, 3.0F, 1.0F, 3.0F, 1.0F, 3.0F};
    }
  }
  // As in a replay whose best logits are too high and too low in turn, by so much.
  void gather_with_noise(std::size_t token, float noise) {
    StepStats& live = stats.at(token);
    live.at_reference_top.clear();
    for (std::size_t i = 0; i < live.top_logits.size(); ++i) {
      live.at_reference_top.push_back(live.top_logits[i] + (i % 2 == 0 ? noise : -noise));
    }
  }

  std::vector<Layer> prefill;
  std::vector<std::vector<std::byte>> deltas;
  std::vector<StepStats> stats;  // token 0, then one per step
  bool prefill_kv = true;
  bool step_kv = true;
  mutable int reads = 0;  // of K/V and steps

 private:
  static std::vector<std::byte> ones(DType dtype, std::uint64_t size) {
    std::vector<std::byte> bytes(size);
    encode_from_float(dtype, std::vector<float>(size / element_size(dtype), 1.0F), bytes);
    return bytes;
  }
  static void copy(const std::vector<std::byte>& from, std::span<std::byte> to) {
    ASSERT_EQ(from.size(), to.size());
    std::memcpy(to.data(), from.data(), from.size());
  }
  [[nodiscard]] std::vector<std::byte> delta_of_ones() const {
    const Geometry& geometry = header_.geometry;
    std::vector<std::byte> delta(geometry.delta_bytes());
    for (std::size_t i = 0; i < geometry.num_layers(); ++i) {
      const LayerGeometry& layer = geometry.layer(i);
      copy(ones(layer.key_dtype, layer.key_bytes()),
           std::span(delta).subspan(geometry.row_offset(i).key, layer.key_bytes()));
      copy(ones(layer.value_dtype, layer.value_bytes()),
           std::span(delta).subspan(geometry.row_offset(i).value, layer.value_bytes()));
    }
    return delta;
  }

  RecordingHeader header_;
  std::vector<std::int32_t> prompt_ = std::vector<std::int32_t>(kPromptLength, 1);
};

inline void set_element(DType dtype, std::vector<std::byte>& bytes, std::uint64_t offset,
                        float value) {
  encode_from_float(dtype, std::span(&value, 1),
                    std::span(bytes).subspan(offset, element_size(dtype)));
}

}  // namespace kvtool::analysis
