// Inject replay of one batch: every step runs on the reference's cache.
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <string>

#include "engine/batch_run.h"
#include "engine/logit_stats.h"
#include "engine/reference_stage.h"
#include "engine/sink_pump.h"
#include "engine/stopwatch.h"
#include "engine/torch_model.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

void check_reference(const ModelInfo& model, const format::RecordingHeader& reference) {
  if (reference.model_sha256 != model.weights_sha256) {
    throw_incompatible("the recording is of other weights (SHA-256 " +
                       format::to_hex(reference.model_sha256) + ") than " + model.path + " (" +
                       format::to_hex(model.weights_sha256) + ")");
  }
  if (reference.vocab_size != model.vocab_size) {
    throw_incompatible("the recording has a vocabulary of " + std::to_string(reference.vocab_size) +
                       ", " + model.path + " one of " + std::to_string(model.vocab_size));
  }
  const std::string difference = describe_difference(reference.geometry, model.geometry);
  if (!difference.empty()) {
    throw_incompatible("the recording's K/V does not fit " + model.path + ": " + difference);
  }
}

// Statistics are recorded with the reference's top-k, which rows of one run share.
std::uint32_t common_top_k(const TorchModel& model, const ReplayBatch& batch) {
  if (batch.rows.empty()) throw_usage("a replay needs at least one recording");
  const std::uint32_t top_k = batch.rows.front().reference->header().top_k;
  for (const ReplayRow& row : batch.rows) {
    check_reference(model.info, row.reference->header());
    if (row.reference->header().top_k != top_k) {
      throw_incompatible("recordings of one batch must hold the same number of top logits, found " +
                         std::to_string(top_k) + " and " +
                         std::to_string(row.reference->header().top_k));
    }
  }
  return std::clamp(top_k, 1U, model.info.vocab_size);
}

// The most steps of any row.
std::int64_t longest(const ReplayBatch& batch) {
  std::uint64_t steps = 0;
  for (const ReplayRow& row : batch.rows) steps = std::max(steps, row.reference->num_steps());
  return static_cast<std::int64_t>(steps);
}

BatchShape make_shape(const TorchModel& model, const ReplayBatch& batch) {
  std::vector<std::span<const std::int32_t>> prompts;
  for (const ReplayRow& row : batch.rows) prompts.emplace_back(row.reference->prompt());
  const auto length = static_cast<std::int64_t>(batch.padded_length);
  const std::int64_t steps = longest(batch);
  check_positions(length, steps + 1, model.info.max_positions);
  return BatchShape(std::move(prompts), length,
                    std::max(static_cast<std::int64_t>(batch.cache_capacity), length + steps));
}

class InjectReplay {
 public:
  InjectReplay(TorchModel& model, const ReplayBatch& batch, std::span<format::RowSink* const> sinks)
      : model_(model),
        batch_(batch),
        stats_(model.info.vocab_size, common_top_k(model, batch), model.device),
        run_(*model.module, model.layout, make_shape(model, batch), model.device),
        tap_(model.layout),
        stage_(model.layout, run_.shape().rows(), model.device),
        pump_(all_sinks(sinks, batch.rows.size()), model.layout, run_.shape(), run_.cache(), stats_,
              model.device),
        tokens_(batch.rows.size()),
        next_tokens_(batch.rows.size()),
        steps_(longest(batch)) {}

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
      result.own_step_kv.push_back(!row.reference->has_step_kv());
    }
    finish(result.timing);
    return result;
  }

 private:
  static std::vector<format::RowSink*> all_sinks(std::span<format::RowSink* const> sinks,
                                                 std::size_t rows) {
    std::vector<format::RowSink*> all(sinks.begin(), sinks.end());
    all.resize(rows, nullptr);
    return all;
  }

  // The device's own prompt K/V and token 0 go to the sinks before the
  // reference's K/V takes their place.
  double prefill() {
    const at::Tensor logits = run_.prefill();
    StepSlot* slot = pump_.acquire();
    const at::Tensor packed = stats_.pack(logits);
    synchronize(packed);
    slot->step = -1;
    slot->elapsed_ns = watch_.lap();
    const double seconds = static_cast<double>(slot->elapsed_ns) * 1e-9;
    pump_.push(slot, packed);
    pump_.drain();
    for (std::size_t index = 0; index < batch_.rows.size(); ++index) {
      const format::RowSource& reference = *batch_.rows[index].reference;
      tokens_[index] = std::max(reference.prefill_stats().token, 0);
      const auto row = static_cast<std::int64_t>(index);
      if (reference.has_prefill_kv()) {
        inject_prefill(reference, model_.layout, run_.cache(), row, run_.shape().padding(row));
      }
    }
    return seconds;
  }

  std::int64_t decode(std::int64_t step) {
    std::vector<bool> active(batch_.rows.size());
    std::vector<std::int64_t> injected;
    for (std::size_t index = 0; index < batch_.rows.size(); ++index) {
      active[index] = read_reference(index, step, injected);
    }
    const std::vector<std::int32_t> inputs = tokens_;
    const at::Tensor logits = run_.decode(step, inputs, pump_.wants_step_kv() ? &tap_ : nullptr);
    StepSlot* slot = pump_.acquire();
    if (pump_.wants_step_kv()) tap_.gather(slot->device_rows());
    const at::Tensor packed = stats_.pack(logits);
    slot->step = step;
    slot->elapsed_ns = watch_.lap();
    slot->input_tokens = inputs;
    slot->active = std::move(active);
    const std::int64_t elapsed = slot->elapsed_ns;
    pump_.push(slot, packed);
    if (!injected.empty()) {
      const bool whole_batch = injected.size() == batch_.rows.size();
      stage_.inject(run_.cache(), run_.shape().padded_length() + step,
                    whole_batch ? std::vector<std::int64_t>() : injected);
    }
    tokens_ = next_tokens_;
    return elapsed;
  }

  // Reads the row's token and K/V of `step`; false when the row has ended, which
  // then keeps feeding its last token as the recorded run did.
  bool read_reference(std::size_t index, std::int64_t step, std::vector<std::int64_t>& injected) {
    const format::RowSource& reference = *batch_.rows[index].reference;
    next_tokens_[index] = tokens_[index];
    if (static_cast<std::uint64_t>(step) >= reference.num_steps()) return false;
    const auto row = static_cast<std::int64_t>(index);
    const bool has_kv = reference.has_step_kv();
    const format::StepStats stats = reference.read_step(
        static_cast<std::uint64_t>(step), has_kv ? stage_.host_row(row) : std::span<std::byte>());
    if (has_kv) injected.push_back(row);
    tokens_[index] = stats.input_token;
    // A recorded device under test may have had no finite choice.
    next_tokens_[index] = stats.token >= 0 ? stats.token : stats.input_token;
    return true;
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

  static void synchronize(const at::Tensor& tensor) {
    if (!tensor.is_cpu()) tensor.select(1, 0).contiguous().cpu();
  }

  TorchModel& model_;
  const ReplayBatch& batch_;
  LogitStats stats_;
  BatchRun run_;
  StepTap tap_;
  ReferenceStage stage_;
  Stopwatch watch_;
  SinkPump pump_;                     // its thread reads the members above
  std::vector<std::int32_t> tokens_;  // fed at the current step, per row
  std::vector<std::int32_t> next_tokens_;
  std::int64_t steps_;
};

}  // namespace

ReplayResult replay(TorchModel& model, const ReplayBatch& batch,
                    std::span<format::RowSink* const> sinks, const Progress& progress) {
  const c10::InferenceMode guard;
  InjectReplay run(model, batch, sinks);
  return run.execute(progress);
}

}  // namespace kvtool::engine
