// The policy "window": attention sinks and a window of recent positions (docs/caches.md).
#pragma once

#include "engine/cache/selection/key_selector.h"

namespace kvtool::engine {

// A query at position p sees the keys j <= p with j < sinks or p - j < recent, inside of the
// window that the model's layer has of its own. Of a prompt as of a step: then a state does not
// depend on how its positions were divided into passes.
class WindowSelector : public KeySelector {
 public:
  using KeySelector::KeySelector;

  [[nodiscard]] AttentionParams narrowed(const AttentionCall& call) const override;
};

}  // namespace kvtool::engine
