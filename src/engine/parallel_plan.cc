#include "engine/parallel_plan.h"

#include <algorithm>

#include "kvtool/cache/cache_plan.h"

namespace kvtool::engine {
namespace {

// More tokens make a pass hardly faster, but its memory larger.
constexpr std::uint64_t kMaxPassTokens = 1024;
// What a token needs inside of the model, estimated high: the widest layers of
// an 8-billion-parameter model take about so much.
constexpr std::uint64_t kActivationBytes = 192 * 1024;
constexpr std::uint64_t kPlannedPositions = 1024;

}  // namespace

PassLimits pass_limits(const ModelInfo& model, const cache::CacheSpec& kv_cache,
                       std::uint64_t memory_bytes) {
  const std::uint64_t logits = std::uint64_t{model.vocab_size} * element_size(model.logits_dtype);
  // The K/V that a token computes, and the recorded ones: into the cache, then to the sinks.
  const std::uint64_t per_token = logits + 2 * model.geometry.delta_bytes() + kActivationBytes;
  // Of many: what a cache keeps of pages is nothing of a single position.
  const std::uint64_t per_position =
      cache::plan_cache(model.geometry, {.rows = 1, .positions = kPlannedPositions}, kv_cache)
          .physical_bytes() /
      kPlannedPositions;
  const std::uint64_t half = memory_bytes / 2;
  return {static_cast<std::int64_t>(std::clamp<std::uint64_t>(half / per_token, 1, kMaxPassTokens)),
          static_cast<std::int64_t>(std::max<std::uint64_t>(half / per_position, 1))};
}

std::vector<std::vector<PlannedPiece>> plan_passes(std::span<const RowLength> rows,
                                                   const PassLimits& limits) {
  std::vector<std::vector<PlannedPiece>> passes;
  std::int64_t tokens = 0;
  std::int64_t kept = 0;
  const auto start_pass = [&] {
    passes.emplace_back();
    tokens = 0;
    kept = 0;
  };
  start_pass();
  for (std::size_t index = 0; index < rows.size(); ++index) {
    const RowLength& row = rows[index];
    const std::int64_t positions = row.prompt + row.steps;
    const bool fits =
        tokens + row.prompt <= limits.tokens && kept + positions <= limits.kept_positions;
    if (!fits && !passes.back().empty()) start_pass();
    tokens += row.prompt;
    kept += positions;
    PlannedPiece piece{index, true, 0, 0};
    while (true) {
      const std::int64_t room = std::max<std::int64_t>(0, limits.tokens - tokens);
      // A pass of its own makes progress however small the limit is.
      const std::int64_t least = piece.with_prompt || !passes.back().empty() ? 0 : 1;
      piece.steps = std::min(row.steps - piece.first_step, std::max(room, least));
      if (piece.with_prompt || piece.steps > 0) passes.back().push_back(piece);
      tokens += piece.steps;
      const std::int64_t next = piece.first_step + piece.steps;
      if (next == row.steps) break;
      start_pass();
      kept = positions;
      piece = {index, false, next, 0};
    }
  }
  if (passes.back().empty()) passes.pop_back();
  return passes;
}

}  // namespace kvtool::engine
