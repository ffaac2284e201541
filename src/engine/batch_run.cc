#include "engine/batch_run.h"

#include <algorithm>
#include <string>

#include "engine/forward_pass.h"
#include "engine/host_memory.h"
#include "engine/sink_pump.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"

namespace kvtool::engine {
namespace {

// A replay does not wait for the device between steps. When a step fills its buffer, the
// device may still read those of the steps that have a slot of the pump.
constexpr std::size_t kTokenBuffers = 16;
static_assert(kTokenBuffers > SinkPump::kSlots);

constexpr const char* kStep = "a decode step";

}  // namespace

BatchRun::BatchRun(ForwardModule& module, const RowLayout& layout, BatchShape shape,
                   at::Device device, const CacheMaker& make_cache)
    : module_(module),
      shape_(std::move(shape)),
      device_(device),
      cache_(make_cache(layout, shape_, device)),
      first_step_positions_(shape_.first_step_positions(device)),
      positions_(first_step_positions_.clone()),
      keep_last_(at::zeros({1}, at::TensorOptions(at::kLong).device(device))) {
  for (std::size_t index = 0; index < kTokenBuffers; ++index) {
    host_tokens_.push_back(host_buffer({shape_.rows(), 1}, at::kLong, device));
  }
  tokens_ = at::empty({shape_.rows(), 1}, at::TensorOptions(at::kLong).device(device));
}

void BatchRun::begin(SlotRange slots) { meter_ ? meter_->begin(slots) : cache_->begin(slots); }

void BatchRun::end() { meter_ ? meter_->end() : cache_->end(); }

CachePolicy& BatchRun::policy() {
  if (meter_) return *meter_;
  return *cache_;
}

at::Tensor BatchRun::prefill() {
  const at::Tensor ids = shape_.input_ids(device_);
  const at::Tensor positions = shape_.position_ids(device_);
  begin({0, shape_.padded_length()});
  const at::Tensor last = at::full({1}, shape_.padded_length() - 1, keep_last_.options());
  at::Tensor logits = forward("prefill of " + std::to_string(shape_.rows()) + " prompts of " +
                                  std::to_string(shape_.padded_length()) + " tokens",
                              policy(), ids, positions, last);
  end();
  return logits;
}

at::Tensor BatchRun::forward(const std::string& what, CachePolicy& policy, const at::Tensor& ids,
                             const at::Tensor& positions, const at::Tensor& keep) {
  return run_forward(module_, policy, what, ids, positions, keep).select(1, 0);
}

at::Tensor BatchRun::decode(std::int64_t step, std::span<const std::int32_t> tokens) {
  at::Tensor& host = host_tokens_[static_cast<std::size_t>(step) % kTokenBuffers];
  std::copy(tokens.begin(), tokens.end(), host.data_ptr<std::int64_t>());
  tokens_.copy_(host, /*non_blocking=*/true);
  at::add_out(positions_, first_step_positions_, step);
  begin({slot_of(step), 1});
  at::Tensor logits =
      fault_ ? decode_with_fault(step) : forward(kStep, policy(), tokens_, positions_, keep_last_);
  end();
  return logits;
}

at::Tensor BatchRun::decode_with_fault(std::int64_t step) {
  const StepSpan steps{.first_step = step,
                       .slot_before = [this](const AttentionCall& call, std::int64_t of) {
                         return kept_in(slot_of(of) - 1, call);
                       }};
  return fault_->run({&steps, 1}, [this](CachePolicy& policy, std::int64_t later) {
    return forward(kStep, policy, tokens_, positions_ + later, keep_last_);
  });
}

LayerKv BatchRun::kept_in(std::int64_t slot, const AttentionCall& call) const {
  const RowLayout& layout = cache_->layout();
  const at::Tensor deltas =
      at::empty({call.k.size(0), layout.row_stride_bytes()}, call.k.options().dtype(at::kByte));
  cache_->read_slot(slot, deltas);
  return {layout.entry_view(deltas, layout.key(call.layer)),
          layout.entry_view(deltas, layout.value(call.layer))};
}

void check_positions(std::int64_t longest_prompt, std::int64_t new_tokens,
                     std::uint64_t max_positions) {
  const auto needed = static_cast<std::uint64_t>(longest_prompt + new_tokens - 1);
  if (needed <= max_positions) return;
  const std::string limit = std::to_string(max_positions);
  if (static_cast<std::uint64_t>(longest_prompt) >= max_positions) {
    throw_usage("the prompt has " + std::to_string(longest_prompt) + " tokens, the model takes " +
                limit + " positions: shorten the prompt");
  }
  throw_usage("a prompt of " + std::to_string(longest_prompt) + " tokens and " +
              std::to_string(new_tokens) + " new ones need " + std::to_string(needed) +
              " positions, the model takes " + limit + ": use " + setting("max_new_tokens") + " " +
              std::to_string(max_positions - static_cast<std::uint64_t>(longest_prompt) + 1) +
              " or a shorter prompt");
}

}  // namespace kvtool::engine
