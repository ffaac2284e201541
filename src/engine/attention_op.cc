#include "engine/attention_op.h"

#include <torch/library.h>

#include "engine/memory_meter.h"
#include "engine/stopwatch.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

thread_local CacheScope* active_scope = nullptr;

}  // namespace

CacheScope::CacheScope(CachePolicy& policy) : policy_(policy), outer_(active_scope) {
  active_scope = this;
}

CacheScope::~CacheScope() { active_scope = outer_; }

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     std::int64_t layer, double scale, std::int64_t sliding_window, double softcap,
                     const std::optional<at::Tensor>& sinks) {
  CacheScope* scope = active_scope;
  if (scope == nullptr) throw_misuse("kvtool::attention was called outside of a cache scope");
  const MemoryMeter::InAttention allocating;
  Stopwatch watch;
  at::Tensor output =
      scope->policy_.attend({q, k, v, layer, scale, sliding_window, softcap, sinks});
  scope->policy_.attend_ns_ += watch.lap();
  return output;
}

TORCH_LIBRARY(kvtool, library) {
  library.def(
      "attention(Tensor q, Tensor k, Tensor v, int layer, float scale, int sliding_window, "
      "float softcap, Tensor? sinks) -> Tensor");
}

// ATen calls only, so one registration serves every device.
TORCH_LIBRARY_IMPL(kvtool, CompositeExplicitAutograd, library) {
  library.impl("attention", TORCH_FN(attention));
}

}  // namespace kvtool::engine
