// What a row of a lab says of pages: hits, prediction and waiting, and what its steps take where
// they wait for none.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/cache/page_traffic.h"

namespace kvtool::run {

// The same policy once more, with room on the device for everything. What a step chooses does not
// depend on where pages are, so it sees the same keys; only the order of sums differs.
struct LabGhost {
  std::string spec;
  std::string missing;          // not empty: there is nothing to compare with, and why
  std::vector<double> step_ms;  // as LabTime
  double decode_seconds = 0.0;
  std::uint64_t other_tokens = 0;  // predictions that are not those of the row

  [[nodiscard]] bool ran() const { return missing.empty(); }
};

struct LabPaging {
  cache::PageTraffic pages;       // over all batches
  double decode_seconds = 0.0;    // of their steps
  std::optional<LabGhost> ghost;  // of a row whose pages had to leave the device

  // Share of the steps' time that they waited for pages.
  [[nodiscard]] std::optional<double> stall_share() const;
  // The same by difference: what the ghost does not take. That counts the work of paging, too, and
  // may come out below 0 where other programs disturb the times.
  [[nodiscard]] std::optional<double> ghost_stall_share() const;
};

}  // namespace kvtool::run
