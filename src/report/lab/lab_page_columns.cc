#include "lab/lab_page_columns.h"

#include <fmt/format.h>

#include <array>

#include "cache_bench_words.h"
#include "kvtool/run/cache_bench.h"
#include "wording.h"

namespace kvtool::report {
namespace {

using run::LabRow;

std::string rate_cell(const std::optional<double>& rate) {
  return rate ? fmt::format("{:.1f}%", 100.0 * *rate) : "-";
}

// Of a row in which pages came ahead.
std::string late_cell(const LabRow& row) {
  const cache::PageTraffic& pages = row.paging.pages;
  return pages.prefetched > 0 && pages.late ? std::to_string(*pages.late) : "-";
}

std::string wasted_cell(const LabRow& row) {
  const cache::PageTraffic& pages = row.paging.pages;
  return pages.prefetched > 0 ? megabytes(pages.wasted_bytes) : "-";
}

std::string ghost_cell(const LabRow& row) {
  const std::optional<run::LabGhost>& ghost = row.paging.ghost;
  if (!ghost || ghost->step_ms.empty()) return "-";
  return fmt::format("{} ({}-{})", three_digits(run::quantile_of(ghost->step_ms, 0.5)),
                     three_digits(run::quantile_of(ghost->step_ms, 0.05)),
                     three_digits(run::quantile_of(ghost->step_ms, 0.95)));
}

constexpr std::array kPageColumns = {
    LabColumn{"hits", LabGroup::kPages, 8,
              [](const LabRow& row) { return rate_cell(row.paging.pages.hit_rate()); }},
    LabColumn{"inner hits", LabGroup::kPages, 11,
              [](const LabRow& row) { return rate_cell(row.paging.pages.inner_hit_rate()); }},
    LabColumn{"late", LabGroup::kPages, 7, late_cell},
    LabColumn{"precision", LabGroup::kPages, 10,
              [](const LabRow& row) { return rate_cell(row.paging.pages.precision()); }},
    LabColumn{"coverage", LabGroup::kPages, 9,
              [](const LabRow& row) { return rate_cell(row.paging.pages.coverage()); }},
    LabColumn{"wasted", LabGroup::kPages, 11, wasted_cell},
    LabColumn{"timeliness", LabGroup::kWaiting, 12,
              [](const LabRow& row) { return rate_cell(row.paging.pages.timeliness()); }},
    LabColumn{"stall", LabGroup::kWaiting, 8,
              [](const LabRow& row) { return rate_cell(row.paging.stall_share()); }},
    LabColumn{"ghost step ms", LabGroup::kWaiting, 21, ghost_cell},
    LabColumn{"ghost stall", LabGroup::kWaiting, 13,
              [](const LabRow& row) { return rate_cell(row.paging.ghost_stall_share()); }},
};

}  // namespace

std::span<const LabColumn> lab_page_columns() { return kPageColumns; }

std::string lab_ghost_words(const run::LabGhost& ghost) {
  if (!ghost.ran()) return "no ghost run: " + ghost.missing;
  if (ghost.other_tokens == 0) return "ghost run (all resident): the same keys and tokens";
  return fmt::format("ghost run (all resident): the same keys, {} by another order of sums",
                     counted(ghost.other_tokens, "other token"));
}

}  // namespace kvtool::report
