// Greedy generation of one batch.
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <optional>

#include "engine/batch_run.h"
#include "engine/greedy_rows.h"
#include "engine/logit_stats.h"
#include "engine/memory_meter.h"
#include "engine/sink_pump.h"
#include "engine/stopwatch.h"
#include "engine/torch_model.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/cache/key_budget.h"

namespace kvtool::engine {
namespace {

BatchShape make_shape(const TorchModel& model, std::span<const Input> inputs,
                      const GenerateOptions& options) {
  std::vector<std::span<const std::int32_t>> prompts;
  std::size_t longest = 0;
  for (const Input& input : inputs) {
    prompts.emplace_back(input.token_ids);
    longest = std::max(longest, input.token_ids.size());
  }
  const auto length = static_cast<std::int64_t>(longest);
  const auto new_tokens = static_cast<std::int64_t>(options.max_new_tokens);
  check_positions(length, new_tokens, model.info.max_positions);
  cache::KeyBudget(options.kv_cache).check(static_cast<std::uint64_t>(length + new_tokens - 1));
  return BatchShape(std::move(prompts), length, length + new_tokens - 1);
}

class Generation {
 public:
  Generation(TorchModel& model, std::span<const Input> inputs, const GenerateOptions& options,
             std::span<format::RowSink* const> sinks)
      : model_(model),
        options_(options),
        run_(*model.module, model.layout, make_shape(model, inputs, options), model.device,
             model.spare_cache.maker(options.kv_cache, model.rotations)),
        stats_(model.info.vocab_size, std::min(options.top_k, model.info.vocab_size),
               {.sample = std::min(options.logits_sample, model.info.vocab_size)}, model.device),
        gathered_ids_(model.info.vocab_size, stats_.gathered(), 1, SinkPump::kSlots, model.device),
        rows_(inputs.size(), options, model.info) {
    const auto listens = [](const format::RowSink* sink) { return sink != nullptr; };
    if (std::any_of(sinks.begin(), sinks.end(), listens)) {
      pump_.emplace(std::vector<format::RowSink*>(sinks.begin(), sinks.end()), run_.shape(),
                    run_.cache(), stats_, model.device);
    }
  }

  GenerateResult execute(const Progress& progress) {
    const auto total = options_.max_new_tokens - 1;
    const at::Tensor first = run_.prefill();
    std::int64_t elapsed = take(first, -1, {}, rows_.active());
    GenerateResult result;
    result.timing.prefill_seconds = static_cast<double>(elapsed) * 1e-9;
    if (progress) progress(0, total);
    std::int64_t step = 0;
    std::int64_t decode_ns = 0;
    const std::int64_t prefill_attention_ns = run_.cache().attend_ns();
    while (rows_.any_active()) {
      decode_ns += decode(step);
      ++step;
      if (progress) progress(static_cast<std::uint64_t>(step), total);
    }
    result.timing.decode_steps = static_cast<std::uint64_t>(step);
    result.timing.decode_seconds = static_cast<double>(decode_ns) * 1e-9;
    if (model_.device.is_cpu()) {
      result.timing.attention_seconds =
          static_cast<double>(run_.cache().attend_ns() - prefill_attention_ns) * 1e-9;
    }
    finish(result.timing);
    result.cache_use = run_.cache().use();
    model_.spare_cache.give_back(run_.take_cache());
    result.rows = rows_.rows();
    return result;
  }

 private:
  std::int64_t decode(std::int64_t step) {
    const std::vector<std::int32_t> inputs = rows_.last_tokens();
    const std::vector<bool> fed = rows_.active();
    if (MemoryMeter* meter = MemoryMeter::current()) {
      meter->begin_step(model_.layout, run_.shape().rows(), run_.slot_of(step) + 1);
    }
    const at::Tensor logits = run_.decode(step, inputs);
    return take(logits, step, inputs, fed);
  }

  // Chooses the tokens, hands the step to the pump, ends rows. Returns the
  // nanoseconds since the last call.
  std::int64_t take(const at::Tensor& logits, std::int64_t step,
                    const std::vector<std::int32_t>& inputs, const std::vector<bool>& fed) {
    StepSlot* slot = nullptr;
    at::Tensor packed;
    at::Tensor keys;
    if (pump_) {
      slot = pump_->acquire();
      if (step >= 0 && pump_->wants_step_kv()) {
        run_.cache().read_slot(run_.slot_of(step), slot->device_rows());
      }
      gathered_ids_.set_sample(slot->index(), static_cast<std::uint64_t>(step + 1));
      packed = stats_.pack(logits, gathered_ids_.to_device(slot->index()));
      keys = packed.select(1, 0);
    } else {
      keys = stats_.greedy_keys(logits);
    }
    const at::Tensor host_keys = keys.contiguous().cpu();  // waits for the device
    const std::int64_t elapsed = watch_.lap();
    if (slot != nullptr) {
      slot->step = step;
      slot->elapsed_ns = elapsed;
      slot->input_tokens = inputs;
      slot->active = fed;
    }
    rows_.choose(host_keys, step);
    if (slot != nullptr) pump_->push(slot, packed);
    return elapsed;
  }

  void finish(const BatchTiming& timing) {
    if (!pump_) return;
    std::vector<std::int64_t> steps;
    std::vector<format::RowEnd> ends;
    for (const GeneratedRow& row : rows_.rows()) {
      steps.push_back(static_cast<std::int64_t>(row.tokens.size()) - 1);
      ends.push_back({row.stop_reason, timing.prefill_seconds, timing.decode_seconds});
    }
    pump_->finish(steps, ends);
  }

  TorchModel& model_;
  const GenerateOptions& options_;
  BatchRun run_;
  LogitStats stats_;
  GatheredIds gathered_ids_;  // the same for all rows
  GreedyRows rows_;
  Stopwatch watch_;
  std::optional<SinkPump> pump_;  // last: its thread reads the members above
};

}  // namespace

GenerateResult generate(TorchModel& model, std::span<const Input> inputs,
                        const GenerateOptions& options, std::span<format::RowSink* const> sinks,
                        const Progress& progress) {
  const c10::InferenceMode guard;
  if (options.max_new_tokens < 1) throw_usage(setting("max_new_tokens") + " must be at least 1");
  // What is counted has to be allocated; what keeps nothing needs no cache.
  if (options.count_memory || options.recompute) model.spare_cache.drop();
  std::optional<MemoryMeter> meter;
  if (options.count_memory) meter.emplace(model.device);
  GenerateResult result = options.recompute
                              ? generate_without_cache(model, inputs, options, sinks, progress)
                              : Generation(model, inputs, options, sinks).execute(progress);
  if (meter) result.memory = meter->use();
  return result;
}

}  // namespace kvtool::engine
