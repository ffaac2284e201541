// How far what attention gives under a cache is from what it gives over all keys as they were made.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "engine/attention_op.h"
#include "engine/cache/contiguous_cache.h"
#include "engine/cache/kv_cache.h"
#include "kvtool/engine/api.h"

namespace kvtool::engine {

// Stands before `cache` in every pass of a run and keeps a contiguous cache of the same rows beside
// it. Queries, and so K and V of later layers and steps, are those of the run under `cache`: the
// error of a layer is what its own attention adds, not what came from before it.
class OutputMeter : public CachePolicy {
 public:
  // `cache`, `layout` and `shape` outlive it.
  OutputMeter(KvCache& cache, const RowLayout& layout, const BatchShape& shape, at::Device device);

  // Of `cache`, too.
  void begin(SlotRange slots);
  void end();
  // Gives what `cache` gives; counts it of passes of one position.
  at::Tensor attend(const AttentionCall& call) override;
  // Rows that the next step counts; of a batch that has rows left.
  void count_rows(const std::vector<bool>& active);

  // Of each layer, so far; waits for the device.
  [[nodiscard]] std::vector<AttentionError> errors() const;

 private:
  KvCache& cache_;
  ContiguousCache exact_;
  SlotRange pass_;
  at::Tensor squares_;  // f64 [layers, 2]: of the difference, and of the exact output
  at::Tensor weights_;  // f64 [B]: 1 of rows that count
  std::vector<bool> active_;
};

}  // namespace kvtool::engine
