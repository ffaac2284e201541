// Carries a batch's results from the decode loop to the sinks on a thread of
// its own. The queue is bounded by the number of slots: a slow disk slows the
// loop, memory stays flat. The first error of a sink stops the run with it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/batch_shape.h"
#include "engine/cache/kv_cache.h"
#include "engine/logit_stats.h"
#include "engine/reference_stage.h"
#include "engine/step_ring.h"
#include "kvtool/base/background_worker.h"
#include "kvtool/format/row.h"

namespace kvtool::engine {

class SinkPump {
 public:
  static constexpr std::size_t kSlots = 8;

  // sinks: one per row, null where nobody listens. All references outlive the pump.
  // Error kUsage for a sink that lives on the final state alone where the cache does not only
  // grow: that state would say nothing of what the steps saw.
  SinkPump(std::vector<format::RowSink*> sinks, const BatchShape& shape, const KvCache& cache,
           const LogitStats& stats, at::Device device);
  // Abandons what is queued and waits for the thread.
  ~SinkPump();
  SinkPump(const SinkPump&) = delete;
  SinkPump& operator=(const SinkPump&) = delete;

  // Before the prefill is pushed: once the sinks have a layer of a row's prompt, that of its
  // reference (null: it keeps its own) takes its place in the cache. The producer waits for
  // that with drain(). `target` is copied.
  void inject_prompts(std::span<const format::RowSource* const> references,
                      const PromptTarget& target);

  // Some sink wants the rows of every step.
  [[nodiscard]] bool wants_step_kv() const { return wants_step_kv_; }

  // A free slot; waits for one. Rethrows a sink's error.
  StepSlot* acquire();
  // Hands a filled slot over, in order. A slot with step -1 ends the prefill:
  // the prompt's K/V is read from the cache first.
  void push(StepSlot* slot, const at::Tensor& packed);
  // Everything pushed so far has reached the sinks. Rethrows a sink's error.
  void drain();
  // Final K/V where it is wanted, then on_end of every row. steps: per row.
  void finish(const std::vector<std::int64_t>& steps, const std::vector<format::RowEnd>& ends);

 private:
  void deliver_prefill(StepSlot& slot);
  void deliver_prompts(const ReferenceRows& prompts);
  void deliver_prompt_layer(std::int64_t row, std::int64_t layer, const LayerKv* reference);
  void deliver_step(StepSlot& slot);
  void deliver_final(std::int64_t row, std::int64_t count);
  // K and V of the first `count` positions of one row.
  [[nodiscard]] LayerKv read_cache(std::int64_t row, std::int64_t layer, std::int64_t count) const;

  std::vector<format::RowSink*> sinks_;
  const BatchShape& shape_;
  const KvCache& cache_;
  const RowLayout& layout_;  // of cache_
  const LogitStats& stats_;
  SideStream side_;
  bool wants_step_kv_ = false;
  std::vector<ReferenceRows> prompts_;  // of all rows; without a reference where they keep theirs
  std::optional<PromptTarget> target_;
  format::StepStats scratch_;  // of the pump's thread

  std::vector<std::unique_ptr<StepSlot>> slots_;
  std::optional<BackgroundWorker> worker_;  // last: its jobs use everything above
};

}  // namespace kvtool::engine
