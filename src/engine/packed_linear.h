// Linear layers whose weights oneDNN has packed once, when the model was loaded.
// Plain weights are rearranged in every call: for one token that costs more than
// the product itself.
#pragma once

#include <ATen/ATen.h>

#include <optional>

namespace kvtool::engine {

// This build of torch can pack weights of `dtype` on this CPU and multiply by them.
[[nodiscard]] bool can_pack_weights(at::ScalarType dtype);

// weight [out, in] -> opaque, of no use but as packed_linear()'s second argument.
[[nodiscard]] at::Tensor pack_weight(const at::Tensor& weight);

// input [..., in], bias [out] -> [..., out]. Also the op kvtool::packed_linear.
[[nodiscard]] at::Tensor packed_linear(const at::Tensor& input, const at::Tensor& packed_weight,
                                       const std::optional<at::Tensor>& bias);

}  // namespace kvtool::engine
