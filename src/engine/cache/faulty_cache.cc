#include "engine/cache/faulty_cache.h"

#include <algorithm>
#include <limits>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

constexpr double kInt8Max = 127.0;

// K or V of some positions, [B, num_kv_heads, positions, dim].
at::Tensor swap_first_heads(const at::Tensor& row) {
  return at::cat({row.narrow(1, 1, 1), row.narrow(1, 0, 1), row.narrow(1, 2, row.size(1) - 2)}, 1);
}

// Symmetric 8-bit quantization with one scale per input and position, which is then lost.
at::Tensor unscaled_int8(const at::Tensor& row) {
  const at::Tensor exact = row.to(at::kFloat);
  const at::Tensor scale = exact.abs()
                               .amax({1, 3}, /*keepdim=*/true)
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

at::Tensor FaultyCache::run(std::span<const StepSpan> steps, const Forward& forward) {
  steps_ = steps;
  if (fault_.kind == FaultKind::kRotatedKeys) {
    pass_ = Pass::kRememberOutputs;
    forward(*this, 0);
    pass_ = Pass::kTakeNextKeys;
    forward(*this, 1);
    outputs_.clear();
  }
  pass_ = Pass::kStore;
  return forward(*this, 0);
}

at::Tensor FaultyCache::attend(const AttentionCall& call) {
  if (pass_ == Pass::kRememberOutputs) return remember(call);
  if (pass_ == Pass::kTakeNextKeys) return answer_from_memory(call);
  if (call.layer != fault_.layer) return cache_.attend(call);
  const LayerKv rows = with_fault(call);
  return cache_.attend({call.q, rows.k, rows.v, call.layer, call.scale, call.sliding_window,
                        call.softcap, call.sinks});
}

at::Tensor FaultyCache::remember(const AttentionCall& call) {
  at::Tensor output = cache_.attend(call);  // refuses layers that there are not
  if (call.layer >= fault_.layer) return output;
  outputs_.resize(fault_.layer);
  outputs_[static_cast<std::size_t>(call.layer)] = output;
  return output;
}

// Nobody looks at what comes of the layers from the faulty one on.
at::Tensor FaultyCache::answer_from_memory(const AttentionCall& call) {
  if (call.layer < fault_.layer) return outputs_.at(static_cast<std::size_t>(call.layer));
  if (call.layer == fault_.layer) next_keys_ = call.k;
  return at::zeros({call.q.size(0), call.q.size(2), call.q.size(1), call.v.size(3)},
                   call.v.options());
}

LayerKv FaultyCache::with_fault(const AttentionCall& call) const {
  LayerKv rows{call.k.clone(), call.v.clone()};
  for (const StepSpan& span : steps_) {
    const std::optional<Positions> where = faulty_positions(span);
    if (!where) continue;
    const LayerKv faulty = faulty_rows(call, span, *where);
    rows.k.narrow(2, where->first, where->count).copy_(faulty.k);
    rows.v.narrow(2, where->first, where->count).copy_(faulty.v);
  }
  return rows;
}

std::optional<FaultyCache::Positions> FaultyCache::faulty_positions(const StepSpan& span) const {
  if (!is_of_one_step(fault_.kind)) return Positions{span.position, span.steps};
  if (fault_.kind == FaultKind::kNonfinite && !span.has_first_row) return std::nullopt;
  const std::int64_t index = static_cast<std::int64_t>(fault_.step) - span.first_step;
  if (index < 0 || index >= span.steps) return std::nullopt;
  return Positions{span.position + index, 1};
}

LayerKv FaultyCache::faulty_rows(const AttentionCall& call, const StepSpan& span,
                                 const Positions& where) const {
  const auto part = [&](const at::Tensor& all) { return all.narrow(2, where.first, where.count); };
  const at::Tensor k = part(call.k);
  const at::Tensor v = part(call.v);
  switch (fault_.kind) {
    case FaultKind::kScaledValues: return {k, blend(v, v.to(at::kFloat).mul(2.0))};
    case FaultKind::kRotatedKeys: return {blend(k, part(next_keys_)), v};
    case FaultKind::kSwappedHeads:
      return {blend(k, swap_first_heads(k)), blend(v, swap_first_heads(v))};
    case FaultKind::kStaleRow: {
      const LayerKv before = span.slot_before(call, static_cast<std::int64_t>(fault_.step));
      return {blend(k, before.k), blend(v, before.v)};
    }
    case FaultKind::kUnscaledInt8Keys: return {blend(k, unscaled_int8(k)), v};
    case FaultKind::kNonfinite: return {k, with_one_nan(v)};
  }
  throw_misuse("unknown fault");
}

// lerp is exact at strength 1, where right + (wrong - right) need not be.
at::Tensor FaultyCache::blend(const at::Tensor& right, const at::Tensor& wrong) const {
  return at::lerp(right.to(at::kFloat), wrong.to(at::kFloat), fault_.strength)
      .to(right.scalar_type());
}

}  // namespace kvtool::engine
