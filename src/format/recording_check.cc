#include "kvtool/format/recording_check.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

// NaN equals the same NaN here.
bool same_float(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

bool same_floats(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_float);
}

bool same_logits(const StepStats& a, const StepStats& b) {
  return std::bit_cast<std::uint64_t>(a.logsumexp) == std::bit_cast<std::uint64_t>(b.logsumexp) &&
         a.logits_digest == b.logits_digest && a.top_ids == b.top_ids &&
         same_floats(a.top_logits, b.top_logits) && same_floats(a.sampled_logits, b.sampled_logits);
}

class RecordingCheck final : public RowSink {
 public:
  explicit RecordingCheck(const Recording& recording)
      : recording_(recording),
        mode_(recording.header().save_mode),
        delta_(mode_ == SaveMode::kDelta ? recording.geometry().delta_bytes() : 0) {}

  [[nodiscard]] Needs needs() const override {
    return {.prefill_kv = mode_ != SaveMode::kFinalOnly,
            .step_kv = mode_ == SaveMode::kDelta,
            .final_kv = mode_ == SaveMode::kFinalOnly};
  }

  void on_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                        std::span<const std::byte> value) override {
    check_layer("the prompt", layer, recording_.header().prompt_length, key, value);
  }

  void on_prefill_end(const StepStats& stats) override {
    check_stats("the prompt", recording_.read_prefill_stats(), stats);
  }

  void on_step(std::uint64_t step, const StepStats& stats,
               std::span<const std::byte> delta) override {
    const std::string where = "step " + std::to_string(step);
    if (step >= recording_.num_steps()) differ(where, "the recording ends before it");
    const StepStats recorded =
        delta_.empty() ? recording_.read_step_stats(step) : recording_.read_step(step, delta_);
    check_stats(where, recorded, stats);
    check_delta(where, delta);
    ++steps_;
  }

  void on_final_layer(std::uint32_t layer, std::span<const std::byte> key,
                      std::span<const std::byte> value) override {
    check_layer("the end state", layer, recording_.num_cached_positions(), key, value);
  }

  void on_end(const RowEnd& end) override {
    if (steps_ != recording_.num_steps()) {
      differ("step " + std::to_string(steps_), "the recording goes on");
    }
    const nlohmann::json& summary = recording_.summary();
    const auto recorded = summary.find("stop_reason");
    if (recorded != summary.end() && *recorded != stop_reason_name(end.stop_reason)) {
      differ("the end", "it stopped for another reason");
    }
  }

 private:
  [[noreturn]] void differ(const std::string& where, const std::string& what) const {
    throw_incompatible(recording_.path().string() + ": computed again, " + where +
                       " differs from the recording: " + what +
                       ". The device, its libraries or a setting must have changed since");
  }

  void check_stats(const std::string& where, const StepStats& recorded,
                   const StepStats& live) const {
    if (recorded.input_token != live.input_token || recorded.token != live.token) {
      differ(where, "another token");
    }
    if (!same_logits(recorded, live)) differ(where, "other logits");
  }

  void check_layer(const std::string& where, std::uint32_t layer, std::uint64_t positions,
                   std::span<const std::byte> key, std::span<const std::byte> value) {
    const LayerGeometry& shape = recording_.geometry().layer(layer);
    key_.resize(shape.key_bytes() * positions);
    value_.resize(shape.value_bytes() * positions);
    recording_.read_layer(layer, positions, key_, value_);
    if (!std::ranges::equal(key_, key)) differ_in_layer(where, 'K', layer);
    if (!std::ranges::equal(value_, value)) differ_in_layer(where, 'V', layer);
  }

  // Row by row: what lies between them in a live delta is anything.
  void check_delta(const std::string& where, std::span<const std::byte> delta) const {
    if (delta.size() != delta_.size()) differ(where, "another amount of K/V");
    if (delta_.empty()) return;
    const Geometry& geometry = recording_.geometry();
    const auto same = [&](std::uint64_t offset, std::uint64_t bytes) {
      return std::ranges::equal(std::span(delta_).subspan(offset, bytes),
                                delta.subspan(offset, bytes));
    };
    for (std::uint32_t layer = 0; layer < geometry.num_layers(); ++layer) {
      const RowOffset& row = geometry.row_offset(layer);
      if (!same(row.key, geometry.layer(layer).key_bytes())) differ_in_layer(where, 'K', layer);
      if (!same(row.value, geometry.layer(layer).value_bytes())) differ_in_layer(where, 'V', layer);
    }
  }

  [[noreturn]] void differ_in_layer(const std::string& where, char which,
                                    std::uint32_t layer) const {
    differ(where, std::string("other ") + which + " in layer " + std::to_string(layer));
  }

  const Recording& recording_;
  SaveMode mode_;
  std::vector<std::byte> delta_;  // of the recording
  std::vector<std::byte> key_;
  std::vector<std::byte> value_;
  std::uint64_t steps_ = 0;
};

}  // namespace

std::unique_ptr<RowSink> make_recording_check(const Recording& recording) {
  return std::make_unique<RecordingCheck>(recording);
}

}  // namespace kvtool::format
