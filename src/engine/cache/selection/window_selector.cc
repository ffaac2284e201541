#include "engine/cache/selection/window_selector.h"

namespace kvtool::engine {

AttentionParams WindowSelector::narrowed(const AttentionCall& call) const {
  AttentionParams params = params_of(call);
  const auto recent = static_cast<std::int64_t>(budget().recent());
  if (params.sliding_window > 0 && params.sliding_window <= recent) return params;
  params.first_keys = static_cast<std::int64_t>(budget().sinks());
  params.first_reach = params.sliding_window;
  params.sliding_window = recent;
  params.closes_up = budget().closes_up();
  if (params.closes_up) params.turn = turns_.at(static_cast<std::size_t>(call.layer)).get();
  return params;
}

}  // namespace kvtool::engine
