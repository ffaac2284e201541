#include "engine/cache/layer_check.h"

#include <algorithm>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::engine {

void LayerCheck::mark(std::int64_t layer) {
  if (layer < 0 || static_cast<std::size_t>(layer) >= seen_.size()) {
    throw_incompatible("the model calls attention for layer " + std::to_string(layer) +
                       ", its metadata names " + std::to_string(seen_.size()) +
                       " layers: export it again");
  }
  seen_[static_cast<std::size_t>(layer)] = true;
}

void LayerCheck::end() const {
  const auto missing = std::find(seen_.begin(), seen_.end(), false);
  if (missing == seen_.end()) return;
  throw_incompatible("the model skipped attention in layer " +
                     std::to_string(missing - seen_.begin()) +
                     ", which its metadata names: export it again");
}

}  // namespace kvtool::engine
