// A cache that keeps K/V wrongly on purpose: `kvtool selftest` proves with it
// that a comparison notices.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "engine/attention_op.h"
#include "engine/row_layout.h"
#include "kvtool/engine/api.h"

namespace kvtool::engine {

// Consecutive steps of a replay in the calls of one forward pass: one position each, in every row
// of the call's batch.
struct StepSpan {
  std::int64_t position = 0;  // of the first of them in the call
  std::int64_t first_step = 0;
  std::int64_t steps = 1;
  bool has_first_row = true;  // row 0 of the call is the first row of the replay
  // K and V that the cache holds of the call's layer in the slot before that of `step`, as the
  // step sees them: [B, num_kv_heads, 1, dim]. Asked before the call is attended.
  std::function<LayerKv(const AttentionCall& call, std::int64_t step)> slot_before = {};
};

// Hands faulty K/V of one layer to `cache`, for decode steps alone. Every other layer, the rows of
// prompts and everything about attention is the cache's own, so that later layers and steps see
// what they would see if a real cache had this fault. A pass may hold one step of a batch or
// many steps of one row after the other: what is wrong with a row is the same.
class FaultyCache : public CachePolicy {
 public:
  // Runs the model on `policy`, at positions that are `later` than those of the steps.
  using Forward = std::function<at::Tensor(CachePolicy& policy, std::int64_t later)>;

  // `cache` outlives this object. fault: see check_fault().
  FaultyCache(CachePolicy& cache, const Fault& fault) : cache_(cache), fault_(fault) {}

  // One forward pass whose calls hold `steps`, for whose slots the cache has begun. Rotated keys
  // need two more before it: the layers below the faulty one must yield the hidden states of the
  // true position while the keys come out at the next one, so the first remembers the attention
  // of those layers, and the second is answered from that and touches no cache. Returns what
  // the last call of `forward` does.
  at::Tensor run(std::span<const StepSpan> steps, const Forward& forward);

  at::Tensor attend(const AttentionCall& call) override;

 private:
  enum class Pass : std::uint8_t { kRememberOutputs, kTakeNextKeys, kStore };
  struct Positions {  // of a call
    std::int64_t first = 0;
    std::int64_t count = 0;
  };

  at::Tensor remember(const AttentionCall& call);
  at::Tensor answer_from_memory(const AttentionCall& call);
  // K and V of the whole call, those of its faulty positions as the fault makes them.
  [[nodiscard]] LayerKv with_fault(const AttentionCall& call) const;
  [[nodiscard]] std::optional<Positions> faulty_positions(const StepSpan& span) const;
  // [B, num_kv_heads, positions, dim], in the model's dtype.
  [[nodiscard]] LayerKv faulty_rows(const AttentionCall& call, const StepSpan& span,
                                    const Positions& where) const;
  // right + strength * (wrong - right), computed in float32, in right's dtype.
  [[nodiscard]] at::Tensor blend(const at::Tensor& right, const at::Tensor& wrong) const;

  CachePolicy& cache_;
  Fault fault_;
  Pass pass_ = Pass::kStore;
  std::span<const StepSpan> steps_;
  std::vector<at::Tensor> outputs_;  // of the layers below the faulty one
  at::Tensor next_keys_;             // of the faulty layer, for rotated keys
};

// Whether `fault` can be put into a replay of `batch`: its layer and step exist,
// its strength is in (0, 1], two KV heads where two are swapped, a further
// position where keys are rotated. Error kMisuse: run plans faults that can be.
void check_fault(const Fault& fault, const ModelInfo& model, const ReplayBatch& batch);

}  // namespace kvtool::engine
