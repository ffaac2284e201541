// Replay of one batch: the prompt is prefilled, then each step runs on the
// reference's cache or the device's own, with the recorded tokens or its own.
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <optional>
#include <string>

#include "engine/batch_run.h"
#include "engine/logit_stats.h"
#include "engine/reference_check.h"
#include "engine/reference_stage.h"
#include "engine/sink_pump.h"
#include "engine/stopwatch.h"
#include "engine/torch_model.h"
#include "kvtool/base/error.h"
#include "kvtool/cache/key_budget.h"

namespace kvtool::engine {
namespace {

// The most steps of any row.
std::int64_t longest(const ReplayBatch& batch) {
  std::uint64_t steps = 0;
  for (const ReplayRow& row : batch.rows) steps = std::max(steps, row.reference->num_steps());
  return static_cast<std::int64_t>(steps);
}

BatchShape make_shape(const TorchModel& model, const ReplayBatch& batch,
                      const cache::CacheSpec& kv_cache) {
  std::vector<std::span<const std::int32_t>> prompts;
  for (const ReplayRow& row : batch.rows) prompts.emplace_back(row.reference->prompt());
  const auto length = static_cast<std::int64_t>(batch.padded_length);
  const std::int64_t steps = longest(batch);
  check_positions(length, steps + 1, model.info.max_positions);
  const std::int64_t capacity =
      std::max(static_cast<std::int64_t>(batch.cache_capacity), length + steps);
  cache::KeyBudget(kv_cache).check(static_cast<std::uint64_t>(capacity));
  return BatchShape(std::move(prompts), length, capacity);
}

std::vector<const format::RowSource*> references_of(const ReplayBatch& batch) {
  std::vector<const format::RowSource*> references;
  for (const ReplayRow& row : batch.rows) references.push_back(row.reference);
  return references;
}

std::vector<format::RowSink*> all_sinks(std::span<format::RowSink* const> sinks, std::size_t rows) {
  std::vector<format::RowSink*> all(sinks.begin(), sinks.end());
  all.resize(rows, nullptr);
  return all;
}

class Replay {
 public:
  Replay(TorchModel& model, const ReplayBatch& batch, const ReplayOptions& options,
         std::span<format::RowSink* const> sinks)
      : spare_cache_(model.spare_cache),
        batch_(batch),
        options_(options),
        references_(check_references(model.info, batch, options.allow_different_weights)),
        reference_layout_(references_.geometry),
        stats_(model.info.vocab_size, references_.top_k, references_.gathered, model.device),
        gathered_ids_(model.info.vocab_size, references_.gathered,
                      static_cast<std::int64_t>(batch.rows.size()), SinkPump::kSlots, model.device),
        run_(*model.module, model.layout, make_shape(model, batch, options.kv_cache), model.device,
             model.spare_cache.maker(options.kv_cache, model.rotations)),
        fed_(batch.rows.size()),
        recorded_(batch.rows.size()),
        active_(batch.rows.size()),
        rows_by_reference_(rows_by_reference(references_of(batch))),
        steps_(longest(batch)),
        pump_(all_sinks(sinks, batch.rows.size()), run_.shape(), run_.cache(), stats_,
              model.device) {
    if (injects()) {
      stage_.emplace(reference_layout_, SinkPump::kSlots, run_.shape().rows(), model.device);
      pump_.inject_prompts(injected_prompts(), {reference_layout_, run_.shape(), run_.cache()});
    }
    if (options.measure_attention) {
      if (injects() || options.fault) {
        throw_misuse("attention is measured on the device's own K/V, without a fault");
      }
      run_.measure_outputs();
    }
    if (options.fault) {
      check_fault(*options.fault, model.info, batch);
      run_.put_in(*options.fault);
    }
  }

  ReplayResult execute(const Progress& progress) {
    ReplayResult result;
    result.timing.prefill_seconds = prefill();
    if (progress) progress(0, static_cast<std::uint64_t>(steps_));
    watch_.lap();
    std::int64_t decode_ns = 0;
    for (std::int64_t step = 0; step < steps_; ++step) {
      decode_ns += decode(step);
      if (progress) {
        progress(static_cast<std::uint64_t>(step + 1), static_cast<std::uint64_t>(steps_));
      }
    }
    pump_.drain();  // the device has finished every step
    decode_ns += watch_.lap();
    result.timing.decode_seconds = static_cast<double>(decode_ns) * 1e-9;
    result.timing.decode_steps = static_cast<std::uint64_t>(steps_);
    for (const ReplayRow& row : batch_.rows) {
      result.own_step_kv.push_back(!injects() || !row.reference->has_step_kv());
    }
    finish(result.timing);
    result.cache_use = run_.cache().use();
    if (const OutputMeter* meter = run_.meter()) result.attention_errors = meter->errors();
    spare_cache_.give_back(run_.take_cache());
    return result;
  }

 private:
  [[nodiscard]] bool injects() const { return options_.mode == format::ReplayMode::kInject; }
  [[nodiscard]] bool feeds_own_tokens() const { return options_.mode == format::ReplayMode::kFree; }

  double prefill() {
    const at::Tensor logits = run_.prefill();
    StepSlot* slot = pump_.acquire();
    read_references_of_prefill(*slot);
    const at::Tensor packed = pack(logits, *slot);
    const at::Tensor host = packed.cpu();  // waits for the device
    slot->step = -1;
    slot->elapsed_ns = watch_.lap();
    const double seconds = static_cast<double>(slot->elapsed_ns) * 1e-9;
    pump_.push(slot, packed);
    for (std::size_t index = 0; index < batch_.rows.size(); ++index) {
      fed_[index] = next_token(index, host);
    }
    if (injects()) pump_.drain();
    return seconds;
  }

  void read_references_of_prefill(StepSlot& slot) {
    gathered_ids_.set_sample(slot.index(), 0);
    for (std::size_t index = 0; index < batch_.rows.size(); ++index) {
      const format::StepStats stats = batch_.rows[index].reference->prefill_stats();
      recorded_[index] = stats.token;
      gathered_ids_.set_reference_top(slot.index(), static_cast<std::int64_t>(index),
                                      stats.top_ids);
    }
  }

  [[nodiscard]] at::Tensor pack(const at::Tensor& logits, const StepSlot& slot) {
    return stats_.pack(logits, gathered_ids_.to_device(slot.index()));
  }

  // Null for a row that keeps its own.
  [[nodiscard]] std::vector<const format::RowSource*> injected_prompts() const {
    std::vector<const format::RowSource*> references = references_of(batch_);
    for (const format::RowSource*& reference : references) {
      if (!reference->has_prefill_kv()) reference = nullptr;
    }
    return references;
  }

  // Returns the nanoseconds since the last call.
  std::int64_t decode(std::int64_t step) {
    StepSlot* slot = pump_.acquire();
    const std::vector<std::int64_t> injected = read_references(step, *slot);
    if (OutputMeter* meter = run_.meter()) meter->count_rows(active_);
    const at::Tensor logits = run_.decode(step, fed_);
    if (pump_.wants_step_kv()) run_.cache().read_slot(run_.slot_of(step), slot->device_rows());
    const at::Tensor packed = pack(logits, *slot);
    // Own tokens wait for the device; recorded ones are known beforehand.
    const at::Tensor host = feeds_own_tokens() ? packed.cpu() : at::Tensor();
    slot->step = step;
    slot->elapsed_ns = watch_.lap();
    slot->input_tokens = fed_;
    slot->active = active_;
    const std::int64_t elapsed = slot->elapsed_ns;
    pump_.push(slot, packed);
    if (!injected.empty()) {
      const bool whole_batch = injected.size() == batch_.rows.size();
      stage_->inject(slot->index(), run_.cache(), run_.slot_of(step),
                     whole_batch ? std::vector<std::int64_t>() : injected);
    }
    for (std::size_t index = 0; index < fed_.size(); ++index) {
      if (active_[index]) fed_[index] = next_token(index, host);
    }
    return elapsed;
  }

  // Reads the references' tokens of `step` and, where it is injected, their K/V; returns the
  // rows with K/V. A row that has ended keeps feeding its last token as the recorded run did.
  std::vector<std::int64_t> read_references(std::int64_t step, StepSlot& slot) {
    std::vector<std::int64_t> injected;
    slot.references.assign(batch_.rows.size(), {});
    gathered_ids_.set_sample(slot.index(), static_cast<std::uint64_t>(step + 1));
    for (const ReferenceRows& same : rows_by_reference_) {
      const bool active = static_cast<std::uint64_t>(step) < same.reference->num_steps();
      for (const std::int64_t row : same.rows) active_[static_cast<std::size_t>(row)] = active;
      if (active) read_reference(same, step, slot, injected);
    }
    return injected;
  }

  // Once for all of its rows: the device and the sinks get what is read here.
  void read_reference(const ReferenceRows& same, std::int64_t step, StepSlot& slot,
                      std::vector<std::int64_t>& injected) {
    const bool with_kv = injects() && same.reference->has_step_kv();
    const std::span<std::byte> delta =
        with_kv ? stage_->host_row(slot.index(), same.rows.front()) : std::span<std::byte>();
    const format::StepStats stats =
        same.reference->read_step(static_cast<std::uint64_t>(step), delta);
    for (const std::int64_t row : same.rows) {
      const auto index = static_cast<std::size_t>(row);
      if (!feeds_own_tokens()) fed_[index] = stats.input_token;
      recorded_[index] = stats.token;
      gathered_ids_.set_reference_top(slot.index(), row, stats.top_ids);
      if (!with_kv) continue;
      const std::span<std::byte> own = stage_->host_row(slot.index(), row);
      if (row != same.rows.front()) std::copy(delta.begin(), delta.end(), own.begin());
      slot.references[index] = {stats, own};
      injected.push_back(row);
    }
  }

  // What a row feeds after a pass whose packed statistics are `host`. Where the
  // device has no finite choice of its own, the recorded token; where the
  // recorded device had none either, the last token again.
  [[nodiscard]] std::int32_t next_token(std::size_t index, const at::Tensor& host) const {
    if (feeds_own_tokens()) {
      const std::int64_t width = stats_.packed_width();
      const std::int64_t* row =
          host.const_data_ptr<std::int64_t>() + static_cast<std::int64_t>(index) * width;
      const std::int32_t own = stats_.choice({row, static_cast<std::size_t>(width)});
      if (own >= 0) return own;
    }
    return recorded_[index] >= 0 ? recorded_[index] : fed_[index];
  }

  void finish(const BatchTiming& timing) {
    std::vector<std::int64_t> steps;
    std::vector<format::RowEnd> ends;
    for (const ReplayRow& row : batch_.rows) {
      steps.push_back(static_cast<std::int64_t>(row.reference->num_steps()));
      ends.push_back(
          {format::StopReason::kRecordingEnd, timing.prefill_seconds, timing.decode_seconds});
    }
    pump_.finish(steps, ends);
  }

  SpareCache& spare_cache_;
  const ReplayBatch& batch_;
  const ReplayOptions& options_;
  ReferenceFormat references_;
  RowLayout reference_layout_;
  LogitStats stats_;
  GatheredIds gathered_ids_;
  BatchRun run_;
  std::optional<ReferenceStage> stage_;  // in inject mode
  Stopwatch watch_;
  std::vector<std::int32_t> fed_;       // by the current step, per row
  std::vector<std::int32_t> recorded_;  // the reference's choice after it; -1: none
  std::vector<bool> active_;            // rows that the current step belongs to
  std::vector<ReferenceRows> rows_by_reference_;
  std::int64_t steps_;
  SinkPump pump_;  // last: its thread reads the members above
};

}  // namespace

ReplayResult replay(TorchModel& model, const ReplayBatch& batch, const ReplayOptions& options,
                    std::span<format::RowSink* const> sinks, const Progress& progress) {
  const c10::InferenceMode guard;
  Replay run(model, batch, options, sinks);
  return run.execute(progress);
}

}  // namespace kvtool::engine
