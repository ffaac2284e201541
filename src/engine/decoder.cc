// Greedy generation of one batch.
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "engine/batch_run.h"
#include "engine/cache/policies.h"
#include "engine/logit_stats.h"
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
  if (new_tokens < 1) throw_usage(setting("max_new_tokens") + " must be at least 1");
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
             cache_maker(options.kv_cache)),
        stats_(model.info.vocab_size, std::min(options.top_k, model.info.vocab_size),
               {.sample = std::min(options.logits_sample, model.info.vocab_size)}, model.device),
        gathered_ids_(model.info.vocab_size, stats_.gathered(), 1, SinkPump::kSlots, model.device),
        rows_(inputs.size()) {
    const auto listens = [](const format::RowSink* sink) { return sink != nullptr; };
    if (std::any_of(sinks.begin(), sinks.end(), listens)) {
      pump_.emplace(std::vector<format::RowSink*>(sinks.begin(), sinks.end()), run_.shape(),
                    run_.cache(), stats_, model.device);
    }
    active_.assign(inputs.size(), true);
  }

  GenerateResult execute(const Progress& progress) {
    const auto total = options_.max_new_tokens - 1;
    const at::Tensor first = run_.prefill();
    std::int64_t elapsed = take(first, -1, {}, active_);
    GenerateResult result;
    result.timing.prefill_seconds = static_cast<double>(elapsed) * 1e-9;
    if (progress) progress(0, total);
    std::int64_t step = 0;
    std::int64_t decode_ns = 0;
    const std::int64_t prefill_attention_ns = run_.cache().attend_ns();
    while (std::find(active_.begin(), active_.end(), true) != active_.end()) {
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
    result.rows = std::move(rows_);
    return result;
  }

 private:
  std::int64_t decode(std::int64_t step) {
    // A row that has ended keeps feeding its last token, so that the batch keeps
    // its shape and a replay, which knows that token, can do the same.
    std::vector<std::int32_t> inputs(rows_.size());
    for (std::size_t row = 0; row < rows_.size(); ++row) inputs[row] = rows_[row].tokens.back();
    const std::vector<bool> fed = active_;
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
    choose(host_keys, step);
    if (slot != nullptr) pump_->push(slot, packed);
    return elapsed;
  }

  void choose(const at::Tensor& host_keys, std::int64_t step) {
    for (std::size_t row = 0; row < rows_.size(); ++row) {
      if (!active_[row]) continue;
      const std::int64_t key = host_keys.const_data_ptr<std::int64_t>()[row];
      if (!std::isfinite(LogitStats::logit_of(key))) {
        throw_environment("row " + std::to_string(row) + " of the batch: the logits of " +
                          (step < 0 ? "the prefill" : "step " + std::to_string(step)) +
                          " hold NaN or Inf, so there is no next token; try another dtype when "
                          "exporting (float16 overflows where bfloat16 does not)");
      }
      append(rows_[row], LogitStats::token_of(key), row);
    }
  }

  void append(GeneratedRow& row, std::int32_t token, std::size_t index) {
    row.tokens.push_back(token);
    const auto& eos = model_.info.eos_token_ids;
    if (!options_.ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end()) {
      row.stop_reason = format::StopReason::kEndOfSequence;
      active_[index] = false;
    } else if (row.tokens.size() == options_.max_new_tokens) {
      active_[index] = false;
    }
  }

  void finish(const BatchTiming& timing) {
    if (!pump_) return;
    std::vector<std::int64_t> steps;
    std::vector<format::RowEnd> ends;
    for (const GeneratedRow& row : rows_) {
      steps.push_back(static_cast<std::int64_t>(row.tokens.size()) - 1);
      ends.push_back({row.stop_reason, timing.prefill_seconds, timing.decode_seconds});
    }
    pump_->finish(steps, ends);
  }

  TorchModel& model_;
  GenerateOptions options_;
  BatchRun run_;
  LogitStats stats_;
  GatheredIds gathered_ids_;  // the same for all rows
  std::vector<GeneratedRow> rows_;
  std::vector<bool> active_;
  Stopwatch watch_;
  std::optional<SinkPump> pump_;  // last: its thread reads the members above
};

}  // namespace

GenerateResult generate(TorchModel& model, std::span<const Input> inputs,
                        const GenerateOptions& options, std::span<format::RowSink* const> sinks,
                        const Progress& progress) {
  const c10::InferenceMode guard;
  Generation generation(model, inputs, options, sinks);
  return generation.execute(progress);
}

}  // namespace kvtool::engine
