// The one op of the model contract, kvtool::attention, and the scope through
// which it finds the cache of the running forward pass.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>

namespace kvtool::engine {

// One layer's call. q [B, Hq, S, Dk] and k [B, Hkv, S, Dk] after RoPE,
// v [B, Hkv, S, Dv]; Hq is a multiple of Hkv, query heads of one KV head are
// consecutive.
struct AttentionCall {
  const at::Tensor& q;
  const at::Tensor& k;
  const at::Tensor& v;
  std::int64_t layer;
  double scale;
  std::int64_t sliding_window;             // W > 0: key j is visible to query i iff 0 <= i - j < W
  double softcap;                          // c > 0: scores become c * tanh(scores / c)
  const std::optional<at::Tensor>& sinks;  // [Hq] logits of one extra softmax column
};

// Owns K and V: where they live, how they are kept, what a query sees. A new
// policy is one subclass. Called from the thread that runs the model.
class CachePolicy {
 public:
  virtual ~CachePolicy() = default;
  // Takes in k and v of the call's positions and returns attention over
  // everything visible: [B, S, Hq, Dv], contiguous.
  virtual at::Tensor attend(const AttentionCall& call) = 0;

  // Time that all calls of attend() took so far. Where attend() only queues work,
  // as on CUDA, that is the time of queueing.
  [[nodiscard]] std::int64_t attend_ns() const { return attend_ns_; }

 private:
  friend at::Tensor attention(const at::Tensor&, const at::Tensor&, const at::Tensor&, std::int64_t,
                              double, std::int64_t, double, const std::optional<at::Tensor>&);
  std::int64_t attend_ns_ = 0;
};

// Makes `policy` the cache of this thread's forward pass for its lifetime.
// Scopes nest; the innermost wins.
class CacheScope {
 public:
  explicit CacheScope(CachePolicy& policy);
  ~CacheScope();
  CacheScope(const CacheScope&) = delete;
  CacheScope& operator=(const CacheScope&) = delete;

 private:
  friend at::Tensor attention(const at::Tensor&, const at::Tensor&, const at::Tensor&, std::int64_t,
                              double, std::int64_t, double, const std::optional<at::Tensor>&);
  CachePolicy& policy_;
  CacheScope* outer_;
};

}  // namespace kvtool::engine
