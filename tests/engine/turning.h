// Models of tests whose positions turn keys.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "engine/key_rotations.h"
#include "engine/row_layout.h"

namespace kvtool::engine {

// All channels of every layer, each pair half as fast as the one before.
inline KeyRotations turning_layers(const RowLayout& layout) {
  KeyRotations rotations;
  for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
    KeyRotation rotation;
    rotation.dims = layout.key(layer).dim / 2 * 2;
    double frequency = 1.0;
    for (std::int64_t pair = 0; pair < rotation.dims / 2; ++pair, frequency /= 2) {
      rotation.inv_freq.push_back(frequency);
    }
    rotations.layers.push_back(std::make_shared<KeyRotation>(std::move(rotation)));
  }
  return rotations;
}

}  // namespace kvtool::engine
