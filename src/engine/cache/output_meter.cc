#include "engine/cache/output_meter.h"

namespace kvtool::engine {

OutputMeter::OutputMeter(KvCache& cache, const RowLayout& layout, const BatchShape& shape,
                         at::Device device)
    : cache_(cache),
      exact_(layout, shape, device),
      squares_(at::zeros({layout.num_layers(), 2}, at::TensorOptions(at::kDouble).device(device))),
      weights_(at::ones({shape.rows()}, squares_.options())),
      active_(static_cast<std::size_t>(shape.rows()), true) {}

void OutputMeter::begin(SlotRange slots) {
  pass_ = slots;
  cache_.begin(slots);
  exact_.begin(slots);
}

void OutputMeter::end() {
  cache_.end();
  exact_.end();
}

void OutputMeter::count_rows(const std::vector<bool>& active) {
  if (active == active_) return;
  active_ = active;
  const at::Tensor host = at::empty({static_cast<std::int64_t>(active.size())}, at::kDouble);
  for (std::size_t row = 0; row < active.size(); ++row) {
    host[static_cast<std::int64_t>(row)] = active[row] ? 1.0 : 0.0;
  }
  weights_.copy_(host);
}

at::Tensor OutputMeter::attend(const AttentionCall& call) {
  const at::Tensor exact = exact_.attend(call);
  at::Tensor output = cache_.attend(call);
  if (pass_.count != 1) return output;
  const auto squares = [&](const at::Tensor& of) {
    return of.to(at::kDouble).square().sum({1, 2, 3}).mul_(weights_).sum();
  };
  const at::Tensor sums = squares_.select(0, call.layer);
  sums.select(0, 0).add_(squares(output.to(at::kDouble).sub(exact)));
  sums.select(0, 1).add_(squares(exact));
  return output;
}

std::vector<AttentionError> OutputMeter::errors() const {
  const at::Tensor host = squares_.cpu();
  std::vector<AttentionError> errors;
  for (std::int64_t layer = 0; layer < host.size(0); ++layer) {
    errors.push_back({host[layer][0].item<double>(), host[layer][1].item<double>()});
  }
  return errors;
}

}  // namespace kvtool::engine
