#include "read_everything.h"

#include <cstdlib>
#include <functional>
#include <optional>
#include <vector>

#include "kvtool/base/error.h"

namespace kvtool::fuzz {
namespace {

using format::Recording;

void read_layers(const Recording& recording, std::uint64_t positions) {
  for (std::uint32_t i = 0; i < recording.geometry().num_layers(); ++i) {
    const format::LayerGeometry& layer = recording.geometry().layer(i);
    std::vector<std::byte> key(layer.key_bytes() * positions);
    std::vector<std::byte> value(layer.value_bytes() * positions);
    recording.read_layer(i, positions, key, value);
  }
}

void read_steps(const Recording& recording) {
  std::vector<std::byte> delta;
  for (std::uint64_t step = 0; step < recording.num_steps(); ++step) {
    static_cast<void>(recording.read_step_stats(step));
    if (!recording.has_deltas()) continue;
    delta.resize(recording.geometry().delta_bytes());
    static_cast<void>(recording.read_step(step, delta));
  }
}

}  // namespace

void read_everything(const Recording& recording) {
  const std::uint64_t cached = recording.num_cached_positions();
  // One read that fails must not hide the others.
  const std::vector<std::function<void()>> reads = {
      [&] { static_cast<void>(recording.read_tokens()); },
      [&] {
        if (recording.has_prefill()) static_cast<void>(recording.read_prefill_stats());
      },
      [&] { read_layers(recording, cached); },
      [&] { read_steps(recording); },
      [&] { read_layers(recording, cached / 2); },
      [&] { recording.verify(); }};
  std::optional<Error> first;
  for (const auto& read : reads) {
    try {
      read();
    } catch (const Error& error) {
      // No file leads to a bug or to a call against its contract.
      if (error.code() == ErrorCode::kInternal || error.code() == ErrorCode::kMisuse) std::abort();
      if (!first) first = error;
    }
  }
  if (first) throw *first;
}

}  // namespace kvtool::fuzz
