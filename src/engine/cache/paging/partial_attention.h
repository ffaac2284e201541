// Attention over some of the keys at a time: parts are merged by their log-sum-exp, so that keys
// may come and go in any order (Milakov and Gimelshein, arXiv:1805.02867; Dao et al.,
// arXiv:2205.14135, section 3.1).
#pragma once

#include <ATen/ATen.h>

#include "engine/cache/attention.h"

namespace kvtool::engine {

// Of queries [B, Hq, S, Dk], in float32, weights as they are before they are divided by their sum.
class PartialAttention {
 public:
  // params: scale and softcap are used here, sinks in result(); the window is the caller's.
  PartialAttention(const at::Tensor& q, const AttentionParams& params);

  // keys [B, Hkv, T, Dk], values [B, Hkv, T, Dv]; hidden bool [B, 1 or Hkv, 1, T]: keys that the
  // queries of a batch row and K/V head do not see. They may see none of them.
  void add(const at::Tensor& keys, const at::Tensor& values, const at::Tensor& hidden);

  // Over all that was added: [B, Hq, S, Dv] in the type of the values. Needs a visible key.
  [[nodiscard]] at::Tensor result() const;

 private:
  at::Tensor q_;
  AttentionParams params_;
  at::ScalarType dtype_ = at::kFloat;
  at::Tensor largest_;  // [B, Hkv, G * S, 1], -inf where no key was visible
  at::Tensor sum_;      // likewise
  at::Tensor output_;   // [B, Hkv, G * S, Dv]
};

}  // namespace kvtool::engine
