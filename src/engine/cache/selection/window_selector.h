// The policy "window": attention sinks and a window of recent positions (docs/caches.md).
#pragma once

#include <memory>
#include <vector>

#include "engine/cache/selection/key_selector.h"
#include "engine/cache/selection/key_turn.h"

namespace kvtool::engine {

// A query at position p sees the keys j <= p with j < sinks or p - j < recent, inside of the
// window that the model's layer has of its own. Of a prompt as of a step: then a state does not
// depend on how its positions were divided into passes. With positions=cache sinks and window stand
// side by side: the sinks are turned on by what is between, and the model's window counts it not.
class WindowSelector : public KeySelector {
 public:
  // `turns` are of the layers, where positions are those of the cache.
  explicit WindowSelector(const cache::CacheSpec& spec,
                          std::vector<std::shared_ptr<const KeyTurn>> turns = {})
      : KeySelector(spec), turns_(std::move(turns)) {}

  [[nodiscard]] AttentionParams narrowed(const AttentionCall& call) const override;

 private:
  std::vector<std::shared_ptr<const KeyTurn>> turns_;
};

}  // namespace kvtool::engine
