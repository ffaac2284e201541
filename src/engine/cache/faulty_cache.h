// A cache that keeps K/V wrongly on purpose: `kvtool selftest` proves with it
// that a comparison notices.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "engine/attention_op.h"
#include "engine/cache/kv_cache.h"
#include "kvtool/engine/api.h"

namespace kvtool::engine {

// Stores a faulty row of one layer in `cache`, for decode steps alone. Every
// other layer and everything about attention is the cache's own, so that later
// layers and steps see what they would see if a real cache had this fault.
class FaultyCache : public CachePolicy {
 public:
  // What a forward pass is for. Rotated keys need the first two as well: the
  // layers below the faulty one must yield the hidden states of the true
  // position while the keys come out at the next one, so the second pass answers
  // with the attention outputs of the first and touches no cache.
  enum class Pass : std::uint8_t { kRememberOutputs, kTakeNextKeys, kStore };

  // `cache` outlives this object. fault: see check_fault().
  FaultyCache(KvCache& cache, const Fault& fault) : cache_(cache), fault_(fault) {}

  [[nodiscard]] bool needs_next_keys() const { return fault_.kind == FaultKind::kRotatedKeys; }
  // The next pass belongs to `step`, for whose slot the cache has begun.
  void begin(std::int64_t step, std::int64_t slot, Pass pass);
  at::Tensor attend(const AttentionCall& call) override;

 private:
  [[nodiscard]] bool acts_on(const AttentionCall& call) const;
  // [B, num_kv_heads, 1, dim], in the model's dtype.
  [[nodiscard]] LayerKv stored_row(const AttentionCall& call) const;
  // What the cache holds of the layer in the slot before.
  [[nodiscard]] LayerKv row_before(const AttentionCall& call) const;
  // right + strength * (wrong - right), computed in float32, in right's dtype.
  [[nodiscard]] at::Tensor blend(const at::Tensor& right, const at::Tensor& wrong) const;
  at::Tensor remember(const AttentionCall& call);
  at::Tensor answer_from_memory(const AttentionCall& call);

  KvCache& cache_;
  Fault fault_;
  Pass pass_ = Pass::kStore;
  std::int64_t step_ = 0;
  std::int64_t slot_ = 0;
  std::vector<at::Tensor> outputs_;  // per layer, of kRememberOutputs
  at::Tensor next_keys_;             // of the faulty layer, of kTakeNextKeys
};

// Whether `fault` can be put into a replay of `batch`: its layer and step exist,
// its strength is in (0, 1], two KV heads where two are swapped, a further
// position where keys are rotated. Error kMisuse: run plans faults that can be.
void check_fault(const Fault& fault, const ModelInfo& model, const ReplayBatch& batch);

}  // namespace kvtool::engine
