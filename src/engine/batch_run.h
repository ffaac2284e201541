// One batch on its way through the model: shape, cache and the forward passes
// that generation and replay share.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/attention_op.h"
#include "engine/batch_shape.h"
#include "engine/cache/faulty_cache.h"
#include "engine/cache/kv_cache.h"
#include "engine/cache/output_meter.h"
#include "engine/forward_module.h"
#include "engine/row_layout.h"

namespace kvtool::engine {

class BatchRun {
 public:
  BatchRun(ForwardModule& module, const RowLayout& layout, BatchShape shape, at::Device device,
           const CacheMaker& make_cache);
  BatchRun(const BatchRun&) = delete;
  BatchRun& operator=(const BatchRun&) = delete;

  [[nodiscard]] const BatchShape& shape() const { return shape_; }
  [[nodiscard]] KvCache& cache() { return *cache_; }
  // The run is over.
  [[nodiscard]] std::unique_ptr<KvCache> take_cache() { return std::move(cache_); }
  [[nodiscard]] at::Device device() const { return device_; }

  // Slot of the cache that step `step` fills.
  [[nodiscard]] std::int64_t slot_of(std::int64_t step) const {
    return shape_.padded_length() + step;
  }

  // Every step from now on keeps its K/V with this fault.
  void put_in(const Fault& fault) { fault_.emplace(*cache_, fault); }

  // Before the first pass: every pass is measured. Not together with a fault.
  void measure_outputs() { meter_.emplace(*cache_, cache_->layout(), shape_, device_); }
  // Null unless it is measured.
  [[nodiscard]] OutputMeter* meter() { return meter_ ? &*meter_ : nullptr; }

  // Logits at the last prompt position: [B, vocab].
  at::Tensor prefill();
  // Step `step` with one token per row. Logits [B, vocab].
  at::Tensor decode(std::int64_t step, std::span<const std::int32_t> tokens);

 private:
  at::Tensor forward(const std::string& what, CachePolicy& policy, const at::Tensor& ids,
                     const at::Tensor& positions, const at::Tensor& keep);
  void begin(SlotRange slots);
  void end();
  // What stands before the model in a pass without a fault.
  [[nodiscard]] CachePolicy& policy();
  at::Tensor decode_with_fault(std::int64_t step);
  // What the cache holds of the call's layer in `slot`: [B, num_kv_heads, 1, dim].
  [[nodiscard]] LayerKv kept_in(std::int64_t slot, const AttentionCall& call) const;

  ForwardModule& module_;
  BatchShape shape_;
  at::Device device_;
  std::unique_ptr<KvCache> cache_;
  std::optional<FaultyCache> fault_;
  std::optional<OutputMeter> meter_;
  at::Tensor first_step_positions_;
  at::Tensor positions_;                 // i64 [B, 1], of the current step
  at::Tensor keep_last_;                 // i64 [1], 0: the only position of a step
  std::vector<at::Tensor> host_tokens_;  // i64 [B, 1], pinned on CUDA, used in turn
  at::Tensor tokens_;                    // i64 [B, 1] on the device
};

// Checks a batch against the model's positions. Error kUsage.
void check_positions(std::int64_t longest_prompt, std::int64_t new_tokens,
                     std::uint64_t max_positions);

}  // namespace kvtool::engine
