#include "engine/cache/padded_attention.h"

#include <algorithm>

namespace kvtool::engine {

AttentionParams params_of(const AttentionCall& call) {
  return {call.scale, call.sliding_window, call.softcap, call.sinks};
}

std::int64_t PaddedAttention::first_visible(const AttentionCall& call, SlotRange slots) const {
  if (call.sliding_window <= 0) return 0;
  return std::max<std::int64_t>(0, slots.first - call.sliding_window + 1);
}

at::Tensor PaddedAttention::attend(const AttentionCall& call, SlotRange slots,
                                   const at::Tensor& keys, const at::Tensor& values) {
  if (slots.first == 0 && shape_.is_padded()) return attend_prompts(call, keys, values);
  const SlotRange visible{slots.end() - keys.size(2), keys.size(2)};
  return causal_attention(call.q, keys, values, params_of(call), bias_for(call.q, visible))
      .transpose(1, 2)
      .contiguous();
}

// A padded prompt is attended row by row without its padding: the fused causal
// kernel needs no mask, and padding costs and disturbs nothing. What padding
// positions return is zero and never read.
at::Tensor PaddedAttention::attend_prompts(const AttentionCall& call, const at::Tensor& keys,
                                           const at::Tensor& values) const {
  at::Tensor output =
      at::zeros({call.q.size(0), call.q.size(2), call.q.size(1), call.v.size(3)}, call.v.options());
  for (std::int64_t row = 0; row < shape_.rows(); ++row) {
    const std::int64_t first = shape_.padding(row);
    const std::int64_t count = shape_.prompt_length(row);
    const auto part = [&](const at::Tensor& tensor) {
      return tensor.narrow(0, row, 1).narrow(2, first, count);
    };
    output.narrow(0, row, 1)
        .narrow(1, first, count)
        .copy_(
            causal_attention(part(call.q), part(keys), part(values), params_of(call), std::nullopt)
                .transpose(1, 2));
  }
  return output;
}

std::optional<at::Tensor> PaddedAttention::bias_for(const at::Tensor& q, SlotRange keys) {
  if (!shape_.is_padded()) return std::nullopt;
  if (!bias_ || bias_->scalar_type() != q.scalar_type()) {
    bias_ = shape_.padding_bias(q.scalar_type(), device_);
  }
  return bias_->narrow(3, keys.first, keys.count);
}

}  // namespace kvtool::engine
