#include "engine/cache/selection/key_turn.h"

#include <map>

namespace kvtool::engine {

KeyTurn::KeyTurn(const KeyRotation& rotation, at::Device device)
    : offset_(rotation.offset),
      dims_(rotation.dims),
      pairing_(rotation.pairing),
      inv_freq_(at::tensor(rotation.inv_freq, at::kDouble).to(device)) {}

at::Tensor KeyTurn::keys(const at::Tensor& rows, std::int64_t by) const {
  if (!last_.cosine.defined() || by != last_by_) {
    last_ = angle_of(at::full({1}, static_cast<double>(by), inv_freq_.options()));
    last_by_ = by;
  }
  return turned(rows, last_).to(rows.scalar_type());
}

at::Tensor KeyTurn::queries(const at::Tensor& rows, const at::Tensor& by) const {
  return turned(rows, angle_of(by.to(at::kDouble).neg_().unsqueeze(1)));
}

KeyTurn::Angle KeyTurn::angle_of(const at::Tensor& by) const {
  const at::Tensor angle = by * inv_freq_;
  return {angle.cos().to(at::kFloat), angle.sin().to(at::kFloat)};
}

at::Tensor KeyTurn::turned(const at::Tensor& rows, const Angle& angle) const {
  at::Tensor result = rows.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  const at::Tensor first = first_of_pairs(result);
  const at::Tensor second = second_of_pairs(result);
  const at::Tensor a = first.clone();
  first.mul_(angle.cosine).sub_(second * angle.sine);
  second.mul_(angle.cosine).add_(a.mul_(angle.sine));
  return result;
}

at::Tensor KeyTurn::first_of_pairs(const at::Tensor& rows) const {
  if (pairing_ == KeyRotation::Pairing::kHalves) return rows.narrow(-1, offset_, dims_ / 2);
  return rows.narrow(-1, offset_, dims_).slice(-1, 0, dims_, 2);
}

at::Tensor KeyTurn::second_of_pairs(const at::Tensor& rows) const {
  if (pairing_ == KeyRotation::Pairing::kHalves) {
    return rows.narrow(-1, offset_ + dims_ / 2, dims_ / 2);
  }
  return rows.narrow(-1, offset_, dims_).slice(-1, 1, dims_, 2);
}

std::vector<std::shared_ptr<const KeyTurn>> key_turns(const KeyRotations& rotations,
                                                      at::Device device) {
  std::map<const KeyRotation*, std::shared_ptr<const KeyTurn>> made;
  std::vector<std::shared_ptr<const KeyTurn>> turns;
  for (const auto& rotation : rotations.layers) {
    std::shared_ptr<const KeyTurn>& turn = made[rotation.get()];
    if (rotation && !turn) turn = std::make_shared<KeyTurn>(*rotation, device);
    turns.push_back(turn);
  }
  return turns;
}

}  // namespace kvtool::engine
