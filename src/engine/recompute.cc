// Greedy generation without a cache: every token comes from a pass over all tokens before it.
#include <algorithm>
#include <string>
#include <vector>

#include "engine/batch_run.h"
#include "engine/cache/padded_attention.h"
#include "engine/cache/selection/key_selector.h"
#include "engine/forward_pass.h"
#include "engine/greedy_rows.h"
#include "engine/logit_stats.h"
#include "engine/stopwatch.h"
#include "engine/torch_model.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

// Attends over the K and V of the call and keeps none of them.
class KeptNowhere : public CachePolicy {
 public:
  KeptNowhere(const BatchShape& shape, at::Device device)
      : slots_{0, shape.padded_length()}, attention_(shape, device) {}

  at::Tensor attend(const AttentionCall& call) override {
    return attention_.attend(call.q, params_of(call), slots_, {call.k, call.v});
  }

 private:
  SlotRange slots_;
  PaddedAttention attention_;
};

void check_sinks(std::span<format::RowSink* const> sinks) {
  for (const format::RowSink* sink : sinks) {
    if (sink == nullptr) continue;
    const format::RowSink::Needs needs = sink->needs();
    if (needs.prefill_kv || needs.step_kv || needs.final_kv) {
      throw_misuse("a generation without a cache has no K/V for its sinks");
    }
  }
}

class Recomputation {
 public:
  Recomputation(TorchModel& model, std::span<const Input> inputs, const GenerateOptions& options,
                std::span<format::RowSink* const> sinks)
      : model_(model),
        options_(options),
        sinks_(sinks),
        stats_(model.info.vocab_size, std::min(options.top_k, model.info.vocab_size),
               {.sample = std::min(options.logits_sample, model.info.vocab_size)}, model.device),
        gathered_ids_(model.info.vocab_size, stats_.gathered(), 1, 1, model.device),
        rows_(inputs.size(), options_, model.info) {
    check_sinks(sinks);
    for (const Input& input : inputs) {
      sequences_.push_back(input.token_ids);
      length_ = std::max(length_, static_cast<std::int64_t>(input.token_ids.size()));
    }
    check_positions(length_, static_cast<std::int64_t>(options.max_new_tokens),
                    model.info.max_positions);
  }

  GenerateResult execute(const Progress& progress) {
    const std::uint64_t total = options_.max_new_tokens - 1;
    GenerateResult result;
    result.timing.prefill_seconds = pass(-1);
    if (progress) progress(0, total);
    attend_ns_ = 0;
    for (std::int64_t step = 0; rows_.any_active(); ++step) {
      append_last_tokens();
      result.timing.decode_seconds += pass(step);
      result.timing.decode_steps = static_cast<std::uint64_t>(step + 1);
      if (progress) progress(result.timing.decode_steps, total);
    }
    if (model_.device.is_cpu()) {
      result.timing.attention_seconds = static_cast<double>(attend_ns_) * 1e-9;
    }
    finish(result.timing);
    result.rows = rows_.rows();
    return result;
  }

 private:
  void append_last_tokens() {
    const std::vector<std::int32_t> tokens = rows_.last_tokens();
    for (std::size_t row = 0; row < tokens.size(); ++row) sequences_[row].push_back(tokens[row]);
    ++length_;
  }

  // Seconds until the tokens are known.
  double pass(std::int64_t step) {
    const std::vector<bool> fed = rows_.active();
    watch_.lap();
    const at::Tensor logits = forward();
    at::Tensor packed;
    if (!sinks_.empty()) {
      gathered_ids_.set_sample(0, static_cast<std::uint64_t>(step + 1));
      packed = stats_.pack(logits, gathered_ids_.to_device(0)).cpu();
    }
    const at::Tensor keys = sinks_.empty() ? stats_.greedy_keys(logits) : packed.select(1, 0);
    const at::Tensor host_keys = keys.contiguous().cpu();  // waits for the device
    const std::int64_t elapsed = watch_.lap();
    if (packed.defined()) deliver(packed, step, fed, elapsed);
    rows_.choose(host_keys, step);
    return static_cast<double>(elapsed) * 1e-9;
  }

  at::Tensor forward() {
    std::vector<std::span<const std::int32_t>> sequences(sequences_.begin(), sequences_.end());
    const BatchShape shape(std::move(sequences), length_, length_);
    KeptNowhere cache(shape, model_.device);
    const at::Tensor last =
        at::full({1}, length_ - 1, at::TensorOptions(at::kLong).device(model_.device));
    at::Tensor logits =
        run_forward(*model_.module, cache,
                    "a pass over " + std::to_string(shape.rows()) + " sequences of " +
                        std::to_string(length_) + " tokens",
                    shape.input_ids(model_.device), shape.position_ids(model_.device), last)
            .select(1, 0);
    attend_ns_ += cache.attend_ns();
    return logits;
  }

  void deliver(const at::Tensor& packed, std::int64_t step, const std::vector<bool>& fed,
               std::int64_t elapsed_ns) {
    for (std::size_t row = 0; row < sinks_.size(); ++row) {
      if (sinks_[row] == nullptr || !fed[row]) continue;
      const at::Tensor one = packed.select(0, static_cast<std::int64_t>(row));
      format::StepStats stats;
      stats_.unpack({one.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(one.numel())},
                    stats);
      stats.elapsed_ns = elapsed_ns;
      stats.input_token = step < 0 ? -1 : sequences_[row].back();
      if (step < 0) {
        sinks_[row]->on_prefill_end(stats);
      } else {
        sinks_[row]->on_step(static_cast<std::uint64_t>(step), stats, {});
      }
    }
  }

  void finish(const BatchTiming& timing) {
    for (std::size_t row = 0; row < sinks_.size(); ++row) {
      if (sinks_[row] == nullptr) continue;
      sinks_[row]->on_end(
          {rows_.rows()[row].stop_reason, timing.prefill_seconds, timing.decode_seconds});
    }
  }

  TorchModel& model_;
  const GenerateOptions& options_;
  std::span<format::RowSink* const> sinks_;
  LogitStats stats_;
  GatheredIds gathered_ids_;
  GreedyRows rows_;
  std::vector<std::vector<std::int32_t>> sequences_;  // prompt and tokens of each row
  std::int64_t length_ = 0;                           // of the longest
  std::int64_t attend_ns_ = 0;
  Stopwatch watch_;
};

}  // namespace

GenerateResult generate_without_cache(TorchModel& model, std::span<const Input> inputs,
                                      const GenerateOptions& options,
                                      std::span<format::RowSink* const> sinks,
                                      const Progress& progress) {
  return Recomputation(model, inputs, options, sinks).execute(progress);
}

}  // namespace kvtool::engine
