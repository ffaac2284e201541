// The cache of a parallel replay: one forward pass over pieces of several rows,
// one behind the other in a single batch row. A step's query sees the recorded
// K/V of the positions before it and its own at its position, as in a step replay
// that injects, each as the row's cache keeps it; no piece sees another row.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <span>

#include "engine/attention_op.h"
#include "engine/batch_shape.h"
#include "engine/cache/attention.h"
#include "engine/cache/kv_cache.h"
#include "engine/cache/layer_check.h"
#include "engine/row_layout.h"

namespace kvtool::engine {

// What one row of a replay keeps between passes: the K/V that its steps see.
struct ParallelRow {
  // Error kUsage for a cache that cannot say what each step saw: KvCache::settled().
  ParallelRow(const RowLayout& layout, std::span<const std::int32_t> prompt, std::int64_t steps,
              at::Device device, const CacheMaker& make_cache);
  ParallelRow(const ParallelRow&) = delete;
  ParallelRow& operator=(const ParallelRow&) = delete;

  // All positions as they are kept after the last step: [heads, positions, dim].
  void read_final(std::int64_t layer, const LayerKv& kv) const;
  // Of all of it; its applied rows are those that steps saw settled, too.
  [[nodiscard]] cache::CacheUse use() const;

  BatchShape shape;
  std::unique_ptr<KvCache> policy;
  // Positions 0, 1, ...: prompt, then steps, none of them settled.
  KvCache* cache = nullptr;
  std::unique_ptr<KvCache> unsettled;  // what `cache` is where `policy` settles rows
  std::uint64_t settled_rows = 0;      // of all layers, so far
  bool keeps_own_prompt = false;       // the prompt's K/V of this device is what its steps see
  bool keeps_own_steps = false;        // likewise for the steps before a step
};

// Consecutive positions of one row in a pass.
struct ParallelPiece {
  ParallelRow* row = nullptr;
  std::int64_t offset = 0;  // of its first token in the pass
  std::int64_t prompt = 0;  // the row's prompt length if the piece starts with the prompt, else 0
  std::int64_t first_step = 0;  // then steps [first_step, first_step + steps)
  std::int64_t steps = 0;
  bool is_last = false;  // of the row

  [[nodiscard]] std::int64_t tokens() const { return prompt + steps; }
};

class ParallelCache : public CachePolicy {
 public:
  // How the queries of steps are computed. Together, a NaN or Inf reaches queries that must not
  // see it, too: they give it the weight 0, and 0 times NaN is NaN. To find out where there is one
  // waits for the device.
  enum class Queries : std::uint8_t { kTogether, kApartWhereNotFinite };

  explicit ParallelCache(const RowLayout& layout);

  // The next pass consists of `pieces`, which outlive it. `own_rows`, u8 [tokens, row stride] on
  // the device, receives the K/V that the pass computes, as deltas and as the caches keep it.
  void begin(std::span<const ParallelPiece> pieces, const at::Tensor& own_rows, Queries queries);
  // q [1, Hq, tokens, Dk].
  at::Tensor attend(const AttentionCall& call) override;
  // Ends the pass. Error kIncompatible when a layer was not called.
  void end() const;

  // K and V of the call's layer that `step` of `piece` sees in the slot before its own:
  // [1, num_kv_heads, 1, dim]. Of a call that is not attended yet.
  [[nodiscard]] LayerKv slot_before(const AttentionCall& call, const ParallelPiece& piece,
                                    std::int64_t step);

 private:
  // `own` is what the piece computed of the call's K and V, as its cache keeps it.
  [[nodiscard]] static at::Tensor attend_prompt(const AttentionCall& call,
                                                const ParallelPiece& piece, const LayerKv& own);
  [[nodiscard]] at::Tensor attend_steps(const AttentionCall& call, const ParallelPiece& piece,
                                        const LayerKv& own);
  // Steps [first, first + count) of the piece, which see `rows` of the positions before them.
  [[nodiscard]] at::Tensor attend_some(const AttentionCall& call, const ParallelPiece& piece,
                                       SlotRange steps, const LayerKv& rows, const LayerKv& own);
  // Of the tokens of the pass from `offset` on.
  void deliver(std::int64_t layer, std::int64_t offset, const LayerKv& own) const;

  const RowLayout& layout_;
  std::span<const ParallelPiece> pieces_;
  at::Tensor own_rows_;
  Queries queries_ = Queries::kTogether;
  DiagonalMasks masks_;
  LayerCheck filled_;
};

}  // namespace kvtool::engine
