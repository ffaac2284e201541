#include "engine/sink_pump.h"

#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>

#include "engine/host_memory.h"

namespace kvtool::engine {

SinkPump::SinkPump(std::vector<format::RowSink*> sinks, const RowLayout& layout,
                   const BatchShape& shape, const ContiguousCache& cache, const LogitStats& stats,
                   at::Device device)
    : sinks_(std::move(sinks)),
      layout_(layout),
      shape_(shape),
      cache_(cache),
      stats_(stats),
      side_(device) {
  for (const format::RowSink* sink : sinks_) {
    wants_step_kv_ = wants_step_kv_ || (sink != nullptr && sink->needs().step_kv);
  }
  for (std::size_t index = 0; index < kSlots; ++index) {
    slots_.push_back(std::make_unique<StepSlot>(index, shape_.rows(), stats_.packed_width(),
                                                layout_.row_stride_bytes(), wants_step_kv_,
                                                device));
  }
  worker_.emplace(kSlots);
}

SinkPump::~SinkPump() {
  worker_.reset();
  // Copies that nobody will read must still end before their buffers go.
  for (const auto& slot : slots_) slot->wait();
}

StepSlot* SinkPump::acquire() { return slots_[worker_->acquire()].get(); }

void SinkPump::drain() { worker_->drain(); }

void SinkPump::push(StepSlot* slot, const at::Tensor& packed) {
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
      if (sink->needs().final_kv) {
        const auto index = static_cast<std::int64_t>(row);
        read_cache(index, shape_.prompt_length(index) + steps[row],
                   [sink](std::uint32_t layer, auto key, auto value) {
                     sink->on_final_layer(layer, key, value);
                   });
      }
      sink->on_end(ends[row]);
    }
  });
  drain();
}

void SinkPump::deliver_prefill(StepSlot& slot) {
  for (std::size_t row = 0; row < sinks_.size(); ++row) {
    format::RowSink* sink = sinks_[row];
    if (sink == nullptr) continue;
    const auto index = static_cast<std::int64_t>(row);
    if (sink->needs().prefill_kv) {
      read_cache(index, shape_.prompt_length(index),
                 [sink](std::uint32_t layer, auto key, auto value) {
                   sink->on_prefill_layer(layer, key, value);
                 });
    }
    stats_.unpack(slot.packed(index), scratch_);
    scratch_.input_token = -1;
    scratch_.elapsed_ns = slot.elapsed_ns;
    sink->on_prefill_end(scratch_);
  }
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
    sink->on_step(static_cast<std::uint64_t>(slot.step), scratch_, delta);
  }
}

// Runs on the pump's thread. The slots read here are never written again while
// it runs: steps append behind them, and a replay drains before it injects.
void SinkPump::read_cache(std::int64_t row, std::int64_t count,
                          const std::function<void(std::uint32_t, std::span<const std::byte>,
                                                   std::span<const std::byte>)>& receive) {
  std::optional<c10::StreamGuard> on_side;
  if (side_.exists()) on_side.emplace(side_.stream());
  const std::int64_t first = shape_.padding(row);
  for (std::int64_t layer = 0; layer < layout_.num_layers(); ++layer) {
    const at::Tensor key = cache_.key_rows(layer, row, first, count).contiguous().cpu();
    const at::Tensor value = cache_.value_rows(layer, row, first, count).contiguous().cpu();
    receive(static_cast<std::uint32_t>(layer), bytes_of(key), bytes_of(value));
  }
}

}  // namespace kvtool::engine
