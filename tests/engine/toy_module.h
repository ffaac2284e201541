// A language model of two layers made of the op and a few tensors: what a run
// does with a model, without a model file.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <memory>
#include <vector>

#include "engine/forward_module.h"
#include "engine/torch_model.h"
#include "engine/turning.h"

namespace kvtool::engine {

class ToyModule : public ForwardModule {
 public:
  static constexpr std::int64_t kVocab = 16;
  static constexpr std::int64_t kHeads = 2;
  static constexpr std::int64_t kDim = 4;
  static constexpr double kKeyPerPosition = 0.25;  // added to every key, times its position

  ToyModule(at::ScalarType dtype, std::int64_t weights, std::int64_t layers) : layers_(layers) {
    at::manual_seed(static_cast<std::uint64_t>(weights));
    embedding_ = at::randn({kVocab, kHeads * kDim}).to(dtype);
    head_ = at::randn({kHeads * kDim, kVocab}).to(dtype);
  }

  at::Tensor forward(const at::Tensor& input_ids, const at::Tensor& position_ids,
                     const at::Tensor& logits_to_keep) override {
    fed.push_back(input_ids.clone());
    at::Tensor hidden = at::embedding(embedding_, input_ids);
    for (std::int64_t layer = 0; layer < layers_; ++layer) {
      const at::Tensor split =
          hidden.view({hidden.size(0), hidden.size(1), kHeads, kDim}).transpose(1, 2);
      const at::Tensor shift =
          position_ids.to(split.scalar_type()).mul(kKeyPerPosition).view({-1, 1, split.size(2), 1});
      hidden = hidden + attention(split, split + shift, split * 0.5, layer).flatten(2);
    }
    at::Tensor logits = at::matmul(hidden.index_select(1, logits_to_keep), head_);
    if (static_cast<std::int64_t>(fed.size()) - 1 == nan_at_pass) logits.fill_(NAN);
    returned.push_back(logits.clone());
    return logits;
  }

  std::vector<at::Tensor> fed;       // input ids of every pass
  std::vector<at::Tensor> returned;  // logits of every pass
  std::int64_t nan_at_pass = -1;     // whose logits are NaN

  void forget_passes() {
    fed.clear();
    returned.clear();
  }

 private:
  static at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              std::int64_t layer) {
    static const auto op =
        c10::Dispatcher::singleton()
            .findSchemaOrThrow("kvtool::attention", "")
            .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, std::int64_t,
                              double, std::int64_t, double, const std::optional<at::Tensor>&)>();
    return op.call(q, k, v, layer, 0.5, 0, 0.0, std::nullopt);
  }

  std::int64_t layers_;
  at::Tensor embedding_;
  at::Tensor head_;
};

// A loaded toy model whose metadata names two layers. `module` of the result is
// a ToyModule of `layers` layers with the seed `weights`.
inline TorchModel toy_model(DType dtype = DType::kFloat32, std::uint8_t weights = 1,
                            std::int64_t layers = 2) {
  const format::LayerGeometry layer{dtype, dtype, ToyModule::kHeads, ToyModule::kDim,
                                    ToyModule::kDim};
  ModelInfo info;
  info.path = "toy.pt";
  info.logits_dtype = dtype;
  info.vocab_size = ToyModule::kVocab;
  info.max_positions = 64;
  info.geometry = format::Geometry({layer, layer});
  info.weights_sha256[0] = weights;
  RowLayout layout(info.geometry);
  auto module = std::make_unique<ToyModule>(to_scalar_type(dtype), weights, layers);
  KeyRotations rotations = turning_layers(layout);
  return {std::move(info),   TokenTable(), std::move(layout),
          std::move(module), at::kCPU,     std::move(rotations)};
}

}  // namespace kvtool::engine
