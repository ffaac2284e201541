// How a model's positions turn its queries and keys, as the exporter measured it: `rotary` of
// kvtool.json (docs/models.md).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvtool/engine/api.h"

namespace kvtool::engine {

// Of `dims` channels from `offset` on, pair i is turned by position * inv_freq[i] radians: (a, b)
// becomes (a cos - b sin, b cos + a sin).
struct KeyRotation {
  enum class Pairing : std::uint8_t {
    kHalves,       // channel i of the first half and channel i of the second
    kInterleaved,  // channels 2i and 2i + 1
  };

  std::int64_t offset = 0;
  std::int64_t dims = 0;
  Pairing pairing = Pairing::kHalves;
  std::vector<double> inv_freq;  // dims / 2
};

struct KeyRotations {
  // Per layer, one object for all that turn alike; null: the same at every position.
  std::vector<std::shared_ptr<const KeyRotation>> layers;
  // A sentence that names the model, where `layers` is empty.
  std::string why_none;
};

// Of the model that `info` says, from its metadata. Error kIncompatible for rotations that cannot
// be those of its layers.
[[nodiscard]] KeyRotations key_rotations_of(const ModelInfo& info);

}  // namespace kvtool::engine
