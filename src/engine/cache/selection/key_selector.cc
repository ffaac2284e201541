#include "engine/cache/selection/key_selector.h"

#include <algorithm>

#include "kvtool/base/error.h"

namespace kvtool::engine {

AttentionParams params_of(const AttentionCall& call) {
  return {call.scale, call.sliding_window, call.softcap, call.sinks};
}

cache::QueryPlace place_of(const AttentionCall& call, std::int64_t position) {
  return {static_cast<std::uint64_t>(position),
          static_cast<std::uint64_t>(std::max<std::int64_t>(0, call.sliding_window))};
}

bool KeySelector::chooses(const AttentionCall&, std::int64_t) const { return false; }

void KeySelector::clear(const BatchShape&) {
  counted_ = {};
  windows_.clear();
}

void KeySelector::forget_from(std::int64_t) {}

at::Tensor KeySelector::attend_chosen(const AttentionCall&, const StepQueries&) {
  throw_misuse("this selector does not choose by query");
}

at::Tensor KeySelector::attend_step(const AttentionCall& call, const StepQueries& step) {
  if (chooses(call, step.position)) return attend_chosen(call, step);
  return causal_attention(step.q, step.rows.k, step.rows.v, narrowed(call), std::nullopt);
}

at::Tensor attend_steps_singly(KeySelector& selector, const AttentionCall& call,
                               const at::Tensor& q, const LayerKv& rows, const LayerKv& own) {
  const std::int64_t past = rows.k.size(2) - q.size(2);
  at::Tensor output = at::empty({1, q.size(1), q.size(2), rows.v.size(3)}, rows.v.options());
  for (std::int64_t step = 0; step < q.size(2); ++step) {
    const std::int64_t position = past + step;
    const auto put = [&](const LayerKv& from, std::int64_t at) {
      rows.k.narrow(2, position, 1).copy_(from.k.narrow(2, at, 1));
      rows.v.narrow(2, position, 1).copy_(from.v.narrow(2, at, 1));
    };
    const LayerKv kept{rows.k.narrow(2, position, 1).clone(),
                       rows.v.narrow(2, position, 1).clone()};
    put(own, step);
    output.narrow(2, step, 1)
        .copy_(selector.attend_step(
            call, {0,
                   position,
                   q.narrow(2, step, 1),
                   {rows.k.narrow(2, 0, position + 1), rows.v.narrow(2, 0, position + 1)}}));
    put(kept, 0);
  }
  return output;
}

void KeySelector::count_steps(const AttentionCall& call, std::int64_t first, std::int64_t count) {
  if (!budget_.selects(static_cast<std::uint64_t>(call.layer))) return;
  windows_[call.layer] = place_of(call, 0).window;
  for (std::int64_t position = first; position < first + count; ++position) {
    const cache::QueryPlace query = place_of(call, position);
    counted_.visible_keys += query.visible();
    counted_.seen_keys += budget_.seen(query);
    counted_.most_visible_keys = std::max(counted_.most_visible_keys, query.visible());
  }
}

std::uint64_t KeySelector::evicted_rows(std::int64_t positions) const {
  std::uint64_t rows = 0;
  for (const auto& [layer, window] : windows_) {
    rows +=
        budget_.evicted(static_cast<std::uint64_t>(std::max<std::int64_t>(0, positions)), window);
  }
  return rows;
}

void KeySelector::add_to(cache::CacheUse& use) const { use += counted_; }

}  // namespace kvtool::engine
