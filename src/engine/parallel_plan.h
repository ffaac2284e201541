// Divides the rows of a parallel replay into forward passes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kvtool/engine/api.h"

namespace kvtool::engine {

struct RowLength {
  std::int64_t prompt = 0;  // tokens, at least 1
  std::int64_t steps = 0;
};

struct PassLimits {
  std::int64_t tokens = 0;          // of one pass
  std::int64_t kept_positions = 0;  // whose K/V all rows of one pass keep together
};

// Half of the memory is for what each token of a pass takes, half for the caches of the rows
// that share it: what `kv_cache` keeps of their positions, and its work space. At least one
// token and position.
[[nodiscard]] PassLimits pass_limits(const ModelInfo& model, const cache::CacheSpec& kv_cache,
                                     std::uint64_t memory_bytes);

// A part of row `row` in one pass: its prompt, or none of it, and some steps.
struct PlannedPiece {
  std::size_t row = 0;
  bool with_prompt = false;
  std::int64_t first_step = 0;
  std::int64_t steps = 0;

  friend bool operator==(const PlannedPiece&, const PlannedPiece&) = default;
};

// Passes in order; the pieces of a row follow one another. A prompt is never
// divided, and a row is never refused: a pass that starts with it may exceed
// the limits by that.
[[nodiscard]] std::vector<std::vector<PlannedPiece>> plan_passes(std::span<const RowLength> rows,
                                                                 const PassLimits& limits);

}  // namespace kvtool::engine
