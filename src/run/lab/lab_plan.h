// Which replays a lab runs: policies at budgets, and the rows that they are compared with.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/cache/cache_spec.h"
#include "kvtool/run/lab.h"

namespace kvtool::run {

// A share of an input, above 0 and at most all of it, exact to a thousandth of a percent.
class BudgetShare {
 public:
  // "25%", "12.5". Error kUsage.
  [[nodiscard]] static BudgetShare parse(std::string_view text);

  [[nodiscard]] bool is_all() const { return thousandths_ == kAll; }
  // Percent, where that is a whole number.
  [[nodiscard]] std::optional<std::uint64_t> whole_percent() const;
  // Of so many, rounded up.
  [[nodiscard]] std::uint64_t of(std::uint64_t number) const;
  [[nodiscard]] std::string to_string() const;  // "12.5%"

  friend auto operator<=>(const BudgetShare&, const BudgetShare&) = default;

 private:
  static constexpr std::uint64_t kAll = 100'000;
  std::uint64_t thousandths_ = kAll;  // of a percent
};

// A policy as somebody asked for it.
struct LabPolicy {
  std::string given;
  cache::CacheSpec spec;
  bool selects = false;  // it has a budget: of pages, or the positions of a window
  bool is_open = false;  // and names none
};

struct LabPlan {
  std::vector<LabPolicy> policies;
  std::vector<BudgetShare> budgets;  // each once, the largest first

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

// `lengths`: positions of the longest input of each batch, not empty. A share that no option holds
// is turned into pages of the longest of all. Error kUsage for a budget that is too small for what
// a policy shows in any case.
[[nodiscard]] std::vector<PlannedLabRow> plan_lab_rows(const LabPlan& plan, bool controls,
                                                       std::span<const std::uint64_t> lengths);

}  // namespace kvtool::run
