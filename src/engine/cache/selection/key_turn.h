// Queries and keys at other positions than those that the model gave them.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/key_rotations.h"

namespace kvtool::engine {

// Angles in float64, products in float32. Of one cache, on its thread.
class KeyTurn {
 public:
  KeyTurn(const KeyRotation& rotation, at::Device device);

  // Keys [.., dim] as they are `by` positions later, rounded once to their type.
  [[nodiscard]] at::Tensor keys(const at::Tensor& rows, std::int64_t by) const;
  // Queries [.., S, dim] as they are by [S] positions earlier, in float32: the product with a key
  // is that of the query with the key so many positions later.
  [[nodiscard]] at::Tensor queries(const at::Tensor& rows, const at::Tensor& by) const;

 private:
  struct Angle {
    at::Tensor cosine, sine;  // float32, [dims / 2] or [S, dims / 2]
  };
  // by: float64, [S, 1] or [1].
  [[nodiscard]] Angle angle_of(const at::Tensor& by) const;
  // In float32.
  [[nodiscard]] at::Tensor turned(const at::Tensor& rows, const Angle& angle) const;
  [[nodiscard]] at::Tensor first_of_pairs(const at::Tensor& rows) const;
  [[nodiscard]] at::Tensor second_of_pairs(const at::Tensor& rows) const;

  std::int64_t offset_;
  std::int64_t dims_;
  KeyRotation::Pairing pairing_;
  at::Tensor inv_freq_;  // float64 [dims / 2]
  // Of the last keys: the same in many layers.
  mutable std::int64_t last_by_ = 0;
  mutable Angle last_;
};

// Per layer, null where the position changes nothing; layers that turn alike share one.
[[nodiscard]] std::vector<std::shared_ptr<const KeyTurn>> key_turns(const KeyRotations& rotations,
                                                                    at::Device device);

}  // namespace kvtool::engine
