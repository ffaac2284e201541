// What a query sees: the axis of a cache that hides keys. Any cache that keeps rows in slots can
// have any selector (StoredCache::select_with()).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <map>

#include "engine/attention_op.h"
#include "engine/batch_shape.h"
#include "engine/cache/attention.h"
#include "engine/row_layout.h"
#include "kvtool/cache/cache_spec.h"
#include "kvtool/cache/cache_use.h"
#include "kvtool/cache/key_budget.h"

namespace kvtool::engine {

// What the model asks for.
[[nodiscard]] AttentionParams params_of(const AttentionCall& call);

// One query for each of the inputs `first_row`... of a batch, all at the same position.
struct StepQueries {
  std::int64_t first_row = 0;
  std::int64_t position = 0;
  at::Tensor q;  // [inputs, Hq, 1, Dk]
  LayerKv rows;  // [inputs, Hkv, position + 1, dim], the last its own
};

// Of a step at `position`.
[[nodiscard]] cache::QueryPlace place_of(const AttentionCall& call, std::int64_t position);

class KeySelector {
 public:
  explicit KeySelector(const cache::CacheSpec& spec) : budget_(spec) {}
  virtual ~KeySelector() = default;
  KeySelector(const KeySelector&) = delete;
  KeySelector& operator=(const KeySelector&) = delete;

  // What the model asks for, without the keys that no query of the call sees.
  [[nodiscard]] virtual AttentionParams narrowed(const AttentionCall& call) const {
    return params_of(call);
  }

  // Whether a step at `position` sees some keys of the call's layer that depend on its query.
  [[nodiscard]] virtual bool chooses(const AttentionCall& call, std::int64_t position) const;
  // [inputs, Hq, 1, Dv], whether it chooses or not.
  [[nodiscard]] at::Tensor attend_step(const AttentionCall& call, const StepQueries& step);

  // The cache is cleared, for a batch of `shape`.
  virtual void clear(const BatchShape& shape);
  // The slots of the cache from this one on are written.
  virtual void forget_from(std::int64_t slot);
  // That it allocated, on the cache's device.
  [[nodiscard]] virtual std::uint64_t bytes() const { return 0; }

  // Rows of an input of `positions`, in the layers that were attended in, that no later query sees.
  [[nodiscard]] std::uint64_t evicted_rows(std::int64_t positions) const;
  // Steps at positions [first, first + count) of one row attend in the call's layer.
  void count_steps(const AttentionCall& call, std::int64_t first, std::int64_t count);
  // What was counted so far.
  void add_to(cache::CacheUse& use) const;
  [[nodiscard]] const cache::KeyBudget& budget() const { return budget_; }

 protected:
  // A step that chooses.
  virtual at::Tensor attend_chosen(const AttentionCall& call, const StepQueries& step);

 private:
  cache::KeyBudget budget_;
  cache::CacheUse counted_;
  std::map<std::int64_t, std::uint64_t> windows_;  // of the layers that were attended in
};

// Many steps of one input, from position `past` on, one after the other: q [1, Hq, S, Dk] of the
// call's layer. `rows` [1, Hkv, past + S, dim] hold what the cache holds, and at the place of each
// step it sees `own` [1, Hkv, S, dim]. Returns [1, Hq, S, Dv]. Needs a step that chooses.
[[nodiscard]] at::Tensor attend_steps_singly(KeySelector& selector, const AttentionCall& call,
                                             const at::Tensor& q, const LayerKv& rows,
                                             const LayerKv& own);

}  // namespace kvtool::engine
