#include "engine/forward_pass.h"

#include "engine/torch_error.h"

namespace kvtool::engine {

at::Tensor run_forward(ForwardModule& module, CachePolicy& policy, const std::string& what,
                       const at::Tensor& input_ids, const at::Tensor& position_ids,
                       const at::Tensor& logits_to_keep) {
  const CacheScope scope(policy);
  return translate_torch_errors(
      what, [&] { return module.forward(input_ids, position_ids, logits_to_keep); });
}

}  // namespace kvtool::engine
