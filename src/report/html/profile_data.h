// K/V error profiles as the heatmaps draw them (heatmap.js reads this).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "kvtool/analysis/departure.h"
#include "kvtool/analysis/kv_error.h"

namespace kvtool::report::html {

// Layers as rows, blocks of positions as columns, heads pooled. `first_position`
// is the sequence position of the profile's position 0. Null when nothing was
// measured. Blocks are joined where a profile of many layers would cost more
// than kProfileBytesPerPosition.
[[nodiscard]] nlohmann::json blocks_data(const analysis::KvProfile& profile,
                                         std::uint64_t first_position,
                                         const std::optional<analysis::Departure>& departure);
inline constexpr std::uint64_t kProfileBytesPerPosition = 80;

// Layers as rows, KV heads as columns, positions pooled. Null as above.
[[nodiscard]] nlohmann::json heads_data(const analysis::KvProfile& profile);

}  // namespace kvtool::report::html
