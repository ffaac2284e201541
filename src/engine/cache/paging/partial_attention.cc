#include "engine/cache/paging/partial_attention.h"

#include <limits>

namespace kvtool::engine {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

// exp(a - b), 0 where a is -inf even if b is.
at::Tensor decay(const at::Tensor& a, const at::Tensor& b) {
  return at::where(a.eq(kNever), at::zeros_like(a), a.sub(b).exp());
}

// Weights of hidden keys are 0, and 0 times what is not finite is not. To find out where there is
// such a value waits for a device, so there all hidden ones are left out.
at::Tensor weighted(const at::Tensor& weights, const at::Tensor& values, const at::Tensor& hidden) {
  if (values.is_cpu()) {
    at::Tensor output = at::matmul(weights, values).to(at::kFloat);
    if (output.isfinite().all().item<bool>()) return output;
  }
  return at::matmul(weights, values.masked_fill(hidden.transpose(2, 3), 0.0)).to(at::kFloat);
}

}  // namespace

PartialAttention::PartialAttention(const at::Tensor& q, const AttentionParams& params)
    : q_(q), params_(params) {}

void PartialAttention::add(const at::Tensor& keys, const at::Tensor& values,
                           const at::Tensor& hidden) {
  dtype_ = values.scalar_type();
  const at::Tensor grouped = q_.reshape({q_.size(0), keys.size(1), -1, q_.size(3)});
  at::Tensor scores = at::matmul(grouped, keys.transpose(2, 3)).to(at::kFloat).mul_(params_.scale);
  if (params_.softcap > 0.0) scores.div_(params_.softcap).tanh_().mul_(params_.softcap);
  scores.masked_fill_(hidden, kNever);
  const at::Tensor largest = scores.amax(-1, /*keepdim=*/true);
  const at::Tensor weights = decay(scores, largest);
  const at::Tensor sum = weights.sum(-1, /*keepdim=*/true);
  const at::Tensor output = weighted(weights.to(dtype_), values, hidden);
  if (!largest_.defined()) {
    largest_ = largest;
    sum_ = sum;
    output_ = output;
    return;
  }
  const at::Tensor both = at::maximum(largest_, largest);
  const at::Tensor before = decay(largest_, both);
  const at::Tensor now = decay(largest, both);
  sum_ = sum_ * before + sum * now;
  output_ = output_ * before + output * now;
  largest_ = both;
}

at::Tensor PartialAttention::result() const {
  at::Tensor sum = sum_;
  at::Tensor output = output_;
  if (params_.sinks) {
    // One more column, which receives weight and has no value.
    const at::Tensor sinks = params_.sinks->to(at::kFloat)
                                 .view({1, output.size(1), -1, 1, 1})
                                 .expand({-1, -1, -1, q_.size(2), 1})
                                 .reshape({1, output.size(1), -1, 1});
    const at::Tensor both = at::maximum(largest_, sinks);
    const at::Tensor before = decay(largest_, both);
    sum = sum * before + sinks.sub(both).exp();
    output = output * before;
  }
  return output.div(sum).to(dtype_).view({q_.size(0), q_.size(1), q_.size(2), output.size(3)});
}

}  // namespace kvtool::engine
