#include "engine/cache/faulty_cache.h"

#include <algorithm>
#include <limits>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

constexpr double kInt8Max = 127.0;

// KV heads are dimension 1.
at::Tensor swap_first_heads(const at::Tensor& row) {
  return at::cat({row.narrow(1, 1, 1), row.narrow(1, 0, 1), row.narrow(1, 2, row.size(1) - 2)}, 1);
}

// Symmetric 8-bit quantization with one scale per input, which is then lost.
at::Tensor unscaled_int8(const at::Tensor& row) {
  const at::Tensor exact = row.to(at::kFloat);
  const at::Tensor scale = exact.abs()
                               .amax({1, 2, 3}, /*keepdim=*/true)
                               .div_(kInt8Max)
                               .clamp_min_(std::numeric_limits<float>::min());
  return exact.div(scale).round_().clamp_(-kInt8Max, kInt8Max);
}

at::Tensor with_one_nan(const at::Tensor& row) {
  at::Tensor copy = row.clone();
  copy.select(0, 0).select(0, 0).select(0, 0).select(0, 0).fill_(
      std::numeric_limits<double>::quiet_NaN());
  return copy;
}

bool is_of_one_step(FaultKind kind) {
  return kind == FaultKind::kStaleRow || kind == FaultKind::kNonfinite;
}

void check_layer(const Fault& fault, const format::Geometry& geometry) {
  const std::string where = "a fault in layer " + std::to_string(fault.layer) + ": ";
  if (fault.layer >= geometry.num_layers()) {
    throw_misuse(where + "the model has " + std::to_string(geometry.num_layers()) +
                 " layers, counted from 0");
  }
  if (fault.kind == FaultKind::kSwappedHeads && geometry.layer(fault.layer).num_kv_heads < 2) {
    throw_misuse(where + "it has one KV head, swapping needs two");
  }
}

// Steps in which the fault can show: one NaN goes to the first row alone.
std::uint64_t steps_of(const Fault& fault, const ReplayBatch& batch) {
  if (fault.kind == FaultKind::kNonfinite) return batch.rows.front().reference->num_steps();
  std::uint64_t steps = 0;
  for (const ReplayRow& row : batch.rows) steps = std::max(steps, row.reference->num_steps());
  return steps;
}

void check_step(const Fault& fault, std::uint64_t steps) {
  if (steps == 0) throw_misuse("a fault needs a step to act in, the recordings hold none");
  if (is_of_one_step(fault.kind) && fault.step >= steps) {
    throw_misuse("a fault at step " + std::to_string(fault.step) + ": the recordings hold " +
                 std::to_string(steps) + " steps, counted from 0");
  }
}

// The last step runs at position longest prompt + steps - 1.
void check_next_position(const ModelInfo& model, const ReplayBatch& batch, std::uint64_t steps) {
  std::uint64_t longest = 0;
  for (const ReplayRow& row : batch.rows) {
    longest = std::max<std::uint64_t>(longest, row.reference->prompt().size());
  }
  const std::uint64_t needed = longest + steps + 1;
  if (needed <= model.max_positions) return;
  throw_misuse("rotated keys are those of the next position: " + std::to_string(needed) +
               " positions are needed, the model takes " + std::to_string(model.max_positions) +
               "; use shorter recordings");
}

}  // namespace

void check_fault(const Fault& fault, const ModelInfo& model, const ReplayBatch& batch) {
  check_layer(fault, model.geometry);
  if (!(fault.strength > 0.0 && fault.strength <= 1.0)) {
    throw_misuse("a fault of strength " + std::to_string(fault.strength) +
                 ": it must be above 0 and at most 1");
  }
  const std::uint64_t steps = steps_of(fault, batch);
  check_step(fault, steps);
  if (fault.kind == FaultKind::kRotatedKeys) check_next_position(model, batch, steps);
}

void FaultyCache::begin(std::int64_t step, std::int64_t slot, Pass pass) {
  step_ = step;
  slot_ = slot;
  pass_ = pass;
}

at::Tensor FaultyCache::attend(const AttentionCall& call) {
  if (pass_ == Pass::kRememberOutputs) return remember(call);
  if (pass_ == Pass::kTakeNextKeys) return answer_from_memory(call);
  if (!acts_on(call)) return cache_.attend(call);
  const LayerKv row = stored_row(call);
  return cache_.attend({call.q, row.k, row.v, call.layer, call.scale, call.sliding_window,
                        call.softcap, call.sinks});
}

at::Tensor FaultyCache::remember(const AttentionCall& call) {
  at::Tensor output = cache_.attend(call);  // refuses layers that there are not
  outputs_.resize(std::max(outputs_.size(), static_cast<std::size_t>(call.layer) + 1));
  outputs_[static_cast<std::size_t>(call.layer)] = output;
  return output;
}

at::Tensor FaultyCache::answer_from_memory(const AttentionCall& call) {
  if (call.layer == fault_.layer) next_keys_ = call.k;
  return outputs_.at(static_cast<std::size_t>(call.layer));
}

bool FaultyCache::acts_on(const AttentionCall& call) const {
  if (call.layer != fault_.layer) return false;
  return !is_of_one_step(fault_.kind) || step_ == static_cast<std::int64_t>(fault_.step);
}

LayerKv FaultyCache::stored_row(const AttentionCall& call) const {
  switch (fault_.kind) {
    case FaultKind::kScaledValues: return {call.k, blend(call.v, call.v.to(at::kFloat).mul(2.0))};
    case FaultKind::kRotatedKeys: return {blend(call.k, next_keys_), call.v};
    case FaultKind::kSwappedHeads:
      return {blend(call.k, swap_first_heads(call.k)), blend(call.v, swap_first_heads(call.v))};
    case FaultKind::kStaleRow: {
      const LayerKv before = row_before(call);
      return {blend(call.k, before.k), blend(call.v, before.v)};
    }
    case FaultKind::kUnscaledInt8Keys: return {blend(call.k, unscaled_int8(call.k)), call.v};
    case FaultKind::kNonfinite: return {call.k, with_one_nan(call.v)};
  }
  throw_misuse("unknown fault");
}

LayerKv FaultyCache::row_before(const AttentionCall& call) const {
  const RowLayout& layout = cache_.layout();
  const at::Tensor deltas =
      at::empty({call.k.size(0), layout.row_stride_bytes()}, call.k.options().dtype(at::kByte));
  cache_.read_slot(slot_ - 1, deltas);
  return {layout.entry_view(deltas, layout.key(call.layer)),
          layout.entry_view(deltas, layout.value(call.layer))};
}

// lerp is exact at strength 1, where right + (wrong - right) need not be.
at::Tensor FaultyCache::blend(const at::Tensor& right, const at::Tensor& wrong) const {
  return at::lerp(right.to(at::kFloat), wrong.to(at::kFloat), fault_.strength)
      .to(right.scalar_type());
}

}  // namespace kvtool::engine
