// A model as the engine sees it: the model contract's forward() and nothing of
// how it was exported.
#pragma once

#include <ATen/ATen.h>

namespace kvtool::engine {

class ForwardModule {
 public:
  virtual ~ForwardModule() = default;
  // input_ids i64 [B, S], position_ids i64 [B, S], logits_to_keep i64 [K] on the
  // module's device -> logits [B, K, vocab]. Needs an active CacheScope.
  virtual at::Tensor forward(const at::Tensor& input_ids, const at::Tensor& position_ids,
                             const at::Tensor& logits_to_keep) = 0;
};

}  // namespace kvtool::engine
