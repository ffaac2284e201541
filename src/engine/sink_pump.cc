#include "engine/sink_pump.h"

#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>

#include "engine/host_memory.h"

namespace kvtool::engine {
SinkPump::SinkPump(std::vector<format::RowSink*> sinks, const BatchShape& shape,
                   const KvCache& cache, const LogitStats& stats, at::Device device)
    : sinks_(std::move(sinks)),
      shape_(shape),
      cache_(cache),
      layout_(cache.layout()),
      stats_(stats),
      side_(device) {
  for (const format::RowSink* sink : sinks_) {
    if (sink == nullptr) continue;
    check_final_state(sink->needs(), cache_);
    wants_step_kv_ = wants_step_kv_ || sink->needs().step_kv;
  }
  for (std::size_t index = 0; index < kSlots; ++index) {
    slots_.push_back(std::make_unique<StepSlot>(index, shape_.rows(), stats_.packed_width(),
                                                layout_.row_stride_bytes(), wants_step_kv_,
                                                device));
  }
  for (std::size_t row = 0; row < sinks_.size(); ++row) {
    prompts_.push_back({nullptr, {static_cast<std::int64_t>(row)}});
  }
  worker_.emplace(kSlots);
}

SinkPump::~SinkPump() {
  worker_.reset();
  // Copies that nobody will read must still end before their buffers go.
  for (const auto& slot : slots_) slot->wait();
}

StepSlot* SinkPump::acquire() { return slots_[worker_->acquire()].get(); }

void SinkPump::inject_prompts(std::span<const format::RowSource* const> references,
                              const PromptTarget& target) {
  prompts_ = rows_by_reference(references);
  target_.emplace(target);
}

void SinkPump::drain() { worker_->drain(); }

void SinkPump::push(StepSlot* slot, const at::Tensor& packed) {
  const bool is_prefill = slot->step < 0;
  slot->submit(packed, side_);
  worker_->submit(slot->index(), [this, slot] {
    const c10::InferenceMode guard;
    slot->wait();
    if (slot->step < 0) {
      deliver_prefill(*slot);
    } else {
      deliver_step(*slot);
    }
  });
  if (is_prefill && !cache_.is_append_only()) drain();
}

void SinkPump::finish(const std::vector<std::int64_t>& steps,
                      const std::vector<format::RowEnd>& ends) {
  // A replay injects behind the last push; the final state is read after that.
  if (side_.exists()) side_.wait_for_compute();
  worker_->enqueue([this, steps, ends] {
    const c10::InferenceMode guard;
    for (std::size_t row = 0; row < sinks_.size(); ++row) {
      format::RowSink* sink = sinks_[row];
      if (sink == nullptr) continue;
      const auto index = static_cast<std::int64_t>(row);
      if (sink->needs().final_kv) deliver_final(index, shape_.prompt_length(index) + steps[row]);
      sink->on_end(ends[row]);
    }
  });
  drain();
}

void SinkPump::deliver_prefill(StepSlot& slot) {
  for (const ReferenceRows& prompts : prompts_) {
    deliver_prompts(prompts);
    for (const std::int64_t row : prompts.rows) {
      format::RowSink* sink = sinks_[static_cast<std::size_t>(row)];
      if (sink == nullptr) continue;
      stats_.unpack(slot.packed(row), scratch_);
      scratch_.input_token = -1;
      scratch_.elapsed_ns = slot.elapsed_ns;
      sink->on_prefill_end(scratch_);
    }
  }
}

// Runs on the pump's thread, layer by layer, so that a reference is read once and no more of
// it is in memory than a layer.
void SinkPump::deliver_prompts(const ReferenceRows& prompts) {
  std::optional<c10::StreamGuard> on_side;
  if (side_.exists()) on_side.emplace(side_.stream());
  for (std::int64_t layer = 0; layer < layout_.num_layers(); ++layer) {
    std::optional<LayerKv> reference;
    if (prompts.reference != nullptr) {
      reference = read_prompt_layer(*prompts.reference, target_->layout, layer);
    }
    for (const std::int64_t row : prompts.rows) {
      deliver_prompt_layer(row, layer, reference ? &*reference : nullptr);
      if (reference) target_->write(row, layer, *reference);
    }
  }
  // Passes run on another stream.
  if (prompts.reference != nullptr && side_.exists()) side_.stream().synchronize();
}

void SinkPump::deliver_prompt_layer(std::int64_t row, std::int64_t layer,
                                    const LayerKv* reference) {
  format::RowSink* sink = sinks_[static_cast<std::size_t>(row)];
  if (sink == nullptr || !sink->needs().prefill_kv) return;
  const auto number = static_cast<std::uint32_t>(layer);
  const LayerKv own = read_cache(row, layer, shape_.prompt_length(row));
  if (reference != nullptr) {
    sink->on_reference_layer(number, bytes_of(reference->k), bytes_of(reference->v));
  }
  sink->on_prefill_layer(number, bytes_of(own.k), bytes_of(own.v));
}

void SinkPump::deliver_step(StepSlot& slot) {
  for (std::size_t row = 0; row < sinks_.size(); ++row) {
    format::RowSink* sink = sinks_[row];
    if (sink == nullptr || !slot.active[row]) continue;
    const auto index = static_cast<std::int64_t>(row);
    stats_.unpack(slot.packed(index), scratch_);
    scratch_.input_token = slot.input_tokens[row];
    scratch_.elapsed_ns = slot.elapsed_ns;
    const auto delta = sink->needs().step_kv ? slot.rows(index, layout_.geometry().delta_bytes())
                                             : std::span<const std::byte>();
    if (row < slot.references.size() && !slot.references[row].delta.empty()) {
      sink->on_reference_step(static_cast<std::uint64_t>(slot.step), slot.references[row].stats,
                              slot.references[row].delta);
    }
    sink->on_step(static_cast<std::uint64_t>(slot.step), scratch_, delta);
  }
}

void SinkPump::deliver_final(std::int64_t row, std::int64_t count) {
  std::optional<c10::StreamGuard> on_side;
  if (side_.exists()) on_side.emplace(side_.stream());
  for (std::int64_t layer = 0; layer < layout_.num_layers(); ++layer) {
    const LayerKv state = read_cache(row, layer, count);
    sinks_[static_cast<std::size_t>(row)]->on_final_layer(static_cast<std::uint32_t>(layer),
                                                          bytes_of(state.k), bytes_of(state.v));
  }
}

// Runs on the pump's thread. The slots read here are never written by another one while it
// runs: steps append behind them (push() waits where they do not), and a replay that injects
// waits before it goes on.
LayerKv SinkPump::read_cache(std::int64_t row, std::int64_t layer, std::int64_t count) const {
  LayerKv rows = layout_.empty_rows(layer, count, at::kCPU);
  cache_.read({layer, row, {shape_.padding(row), count}}, rows);
  return rows;
}

}  // namespace kvtool::engine
