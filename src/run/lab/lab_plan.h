// Which replays a lab runs: policies at budgets, and the rows that they are compared with.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/cache/cache_spec.h"
#include "kvtool/cache/share.h"
#include "kvtool/run/lab.h"

namespace kvtool::run {

// "25%", "12.5": a share of an input, above 0. Error kUsage.
[[nodiscard]] cache::Share read_budget(std::string_view text);

// A policy as somebody asked for it.
struct LabPolicy {
  std::string given;
  cache::CacheSpec spec;
  bool selects = false;  // it has a budget: of pages, or the positions of a window
  bool is_open = false;  // and names none
};

struct LabPlan {
  std::vector<LabPolicy> policies;
  std::vector<cache::Share> budgets;  // each once, the largest first

  [[nodiscard]] std::vector<cache::CacheSpec> specs() const;
};

// What can be said without recordings. Error kUsage for a policy that is wrong or given twice, a
// wrong budget, and budgets that no policy has a use for.
[[nodiscard]] LabPlan read_lab_plan(const LabRequest& request);

struct PlannedLabRow {
  LabRole role = LabRole::kPolicy;
  std::string given;
  cache::CacheSpec spec;
  std::string budget;  // as LabRow
  std::string frame;
};

// `lengths`: positions of the longest input of each batch, not empty. A window, whose options hold
// no share, shows that of the longest of all. Error kUsage for a budget that is too small for what
// a policy shows in any case.
[[nodiscard]] std::vector<PlannedLabRow> plan_lab_rows(const LabPlan& plan, bool controls,
                                                       std::span<const std::uint64_t> lengths);

}  // namespace kvtool::run
