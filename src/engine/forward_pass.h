// One call of the model with a cache policy in charge of its attention.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "engine/attention_op.h"
#include "engine/forward_module.h"

namespace kvtool::engine {

// Logits [B, K, vocab], see ForwardModule. What the policy throws arrives as it was
// thrown, torch's own errors as kvtool::Error that names `what`.
[[nodiscard]] at::Tensor run_forward(ForwardModule& module, CachePolicy& policy,
                                     const std::string& what, const at::Tensor& input_ids,
                                     const at::Tensor& position_ids,
                                     const at::Tensor& logits_to_keep);

}  // namespace kvtool::engine
