#include "engine/cache/padded_attention.h"

#include <algorithm>

namespace kvtool::engine {

std::int64_t PaddedAttention::first_visible(const AttentionParams& params, SlotRange slots) const {
  if (params.sliding_window <= 0 || params.first_keys > 0) return 0;
  return std::max<std::int64_t>(0, slots.first - params.sliding_window + 1);
}

at::Tensor PaddedAttention::attend(const at::Tensor& q, const AttentionParams& params,
                                   SlotRange slots, const LayerKv& rows) {
  // The first keys of an input stand where its padding ends.
  const bool by_row = slots.first == 0 || simplified(params, slots.end()).first_keys > 0;
  if (by_row && shape_->is_padded()) return attend_each(q, params, slots, rows);
  const SlotRange visible{slots.end() - rows.k.size(2), rows.k.size(2)};
  return causal_attention(q, rows.k, rows.v, params, bias_for(q, visible))
      .transpose(1, 2)
      .contiguous();
}

// Row by row without padding. Of a prompt: the fused causal kernel needs no mask, and padding
// costs and disturbs nothing. What padding positions return is zero and never read.
at::Tensor PaddedAttention::attend_each(const at::Tensor& q, const AttentionParams& params,
                                        SlotRange slots, const LayerKv& rows) const {
  at::Tensor output =
      at::zeros({q.size(0), q.size(2), q.size(1), rows.v.size(3)}, rows.v.options());
  for (std::int64_t row = 0; row < shape_->rows(); ++row) {
    const std::int64_t first = std::max(slots.first, shape_->padding(row));
    const std::int64_t count = slots.end() - first;
    if (count <= 0) continue;
    const auto part = [&](const at::Tensor& tensor, std::int64_t last) {
      return tensor.narrow(0, row, 1).narrow(2, tensor.size(2) - last, last);
    };
    const std::int64_t positions = std::min(rows.k.size(2), slots.end() - shape_->padding(row));
    output.narrow(0, row, 1)
        .narrow(1, first - slots.first, count)
        .copy_(causal_attention(part(q, count), part(rows.k, positions), part(rows.v, positions),
                                params, std::nullopt)
                   .transpose(1, 2));
  }
  return output;
}

std::optional<at::Tensor> PaddedAttention::bias_for(const at::Tensor& q, SlotRange keys) {
  if (!shape_->is_padded()) return std::nullopt;
  if (!bias_ || bias_->scalar_type() != q.scalar_type()) {
    bias_ = shape_->padding_bias(q.scalar_type(), device_);
  }
  return bias_->narrow(3, keys.first, keys.count);
}

}  // namespace kvtool::engine
