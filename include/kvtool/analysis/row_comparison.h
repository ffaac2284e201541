// Compares one live (or second recorded) row with its reference, step by step.
// Pure computation over spans: no torch, no files.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kvtool/analysis/departure.h"
#include "kvtool/analysis/kv_error.h"
#include "kvtool/analysis/logit_noise.h"
#include "kvtool/analysis/tokens.h"
#include "kvtool/format/row.h"

namespace kvtool::analysis {

struct RowComparison {
  FlipBounds bounds = {};  // that the tokens were judged by
  // Token 0, then one per compared step. A step is compared as long as both
  // sides were fed the same tokens up to it; after that its context is another.
  std::vector<TokenComparison> tokens;
  std::uint64_t uncompared_steps = 0;  // recorded steps after the contexts parted
  // The live side's tokens, those after the contexts parted included.
  std::vector<std::int32_t> live_tokens;
  KvProfile prefill_kv;  // positions of the prompt
  KvProfile step_kv;     // position 0 is the row of step 0
  // Positions of each stretch whose K/V the reference holds, compared or not.
  std::uint64_t recorded_prefill_rows = 0;
  std::uint64_t recorded_step_rows = 0;
  // Index of the first token whose logits or K/V differ in any bit (0: prefill).
  std::optional<std::uint64_t> first_bit_difference;

  // The prompt's departure wins over the steps'.
  [[nodiscard]] std::optional<Departure> prefill_departure() const;
  [[nodiscard]] std::optional<Departure> step_departure() const;

  [[nodiscard]] std::uint64_t matches() const;
  // Index of the first mismatching token.
  [[nodiscard]] std::optional<std::uint64_t> first_divergence() const;
  [[nodiscard]] std::uint64_t count(TokenVerdict verdict) const;
  // NaN or Inf in statistics or K/V of either stretch.
  [[nodiscard]] bool nonfinite() const;
  // Every logit statistic of the compared tokens is bitwise equal.
  [[nodiscard]] bool logits_equal() const;
  // Every logit statistic and every compared K/V element is bitwise equal, and
  // nothing was left uncompared.
  [[nodiscard]] bool bitwise_equal() const;
};

struct ComparisonOptions {
  FlipBounds bounds = {};
  std::uint64_t block_positions = 64;
  // Where the live side's types are not the reference's: other K/V or logits
  // dtypes; heads and dims must be the same (Error kIncompatible).
  std::optional<format::Geometry> live_geometry = std::nullopt;
  std::optional<DType> live_logits_dtype = std::nullopt;
  // What a live side that is a recording holds of its logits; empty: all that the reference holds,
  // as in a replay. Decides whether noise is measured (show_noise()).
  std::optional<HeldLogits> live_logits = std::nullopt;
};

// A sink that compares what it is handed with `reference` (must outlive it).
// K/V is compared where the reference has it. What a replay hands over of the reference is not
// read again.
class RowComparator : public format::RowSink {
 public:
  explicit RowComparator(const format::RowSource& reference, ComparisonOptions options = {});
  ~RowComparator() override;

  [[nodiscard]] Needs needs() const override;
  void on_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                        std::span<const std::byte> value) override;
  void on_prefill_end(const format::StepStats& stats) override;
  void on_step(std::uint64_t step, const format::StepStats& stats,
               std::span<const std::byte> delta) override;
  void on_reference_layer(std::uint32_t layer, std::span<const std::byte> key,
                          std::span<const std::byte> value) override;
  void on_reference_step(std::uint64_t step, const format::StepStats& stats,
                         std::span<const std::byte> delta) override;
  void on_final_layer(std::uint32_t layer, std::span<const std::byte> key,
                      std::span<const std::byte> value) override;
  void on_end(const format::RowEnd& end) override;

  // Valid once the run that fed the sink has returned.
  [[nodiscard]] const RowComparison& result() const;
  [[nodiscard]] const format::RowEnd& end() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvtool::analysis
