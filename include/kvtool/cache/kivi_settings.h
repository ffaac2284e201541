// What a spec of the policy "kivi" says.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kvtool/cache/cache_spec.h"
#include "kvtool/cache/layer_list.h"

namespace kvtool::cache {

struct KiviSettings {
  std::uint32_t key_bits = 4;  // 2, 4 or 8; 0: as the model made it
  std::uint32_t value_bits = 4;
  std::uint64_t group = 32;      // positions of a group of K, channels of one of V; at least 1
  std::uint64_t residual = 128;  // last positions that are kept whole, the step's own included
  std::uint64_t sinks = 0;       // first positions that are
  LayerList layers;              // of the others all rows are kept as the model made them

  // Of a layer; 0: as the model made it.
  [[nodiscard]] std::uint32_t key_bits_of(std::uint64_t layer) const {
    return layers.contains(layer) ? key_bits : 0;
  }
  [[nodiscard]] std::uint32_t value_bits_of(std::uint64_t layer) const {
    return layers.contains(layer) ? value_bits : 0;
  }
  // Error kUsage where a model of so many layers lacks one that is named.
  void check_layers(std::uint64_t model_layers) const;

  // Of so many positions, the first that are no longer kept as the model made them but in
  // groups, sinks included; 0 where there is no group.
  [[nodiscard]] std::uint64_t settled(std::uint64_t positions) const;
  // Likewise in a pass that begins with `known` positions and ends with `positions`: of those that
  // it makes itself none are known beforehand.
  [[nodiscard]] std::uint64_t settled_in_pass(std::uint64_t known, std::uint64_t positions) const;
  // The most that are kept whole at a time.
  [[nodiscard]] std::uint64_t ring_positions() const {
    return sinks + std::max<std::uint64_t>(1, residual) + group;
  }
};

// Error kUsage where a value is out of range.
[[nodiscard]] KiviSettings kivi_settings(const CacheSpec& spec);

}  // namespace kvtool::cache
