// Sees to it that a forward pass calls attention in every layer that the
// model's metadata names: a layer that the graph never calls would be recorded
// as whatever its memory held.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvtool::engine {

class LayerCheck {
 public:
  explicit LayerCheck(std::int64_t num_layers) : seen_(static_cast<std::size_t>(num_layers)) {}

  void begin() { seen_.assign(seen_.size(), false); }
  // Error kIncompatible for a layer that the metadata does not name.
  void mark(std::int64_t layer);
  // Error kIncompatible for a layer that was not marked since begin().
  void end() const;

 private:
  std::vector<bool> seen_;
};

}  // namespace kvtool::engine
