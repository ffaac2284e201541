#include "lab_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kvtool/cache/key_budget.h"

namespace kvtool::run {
namespace {

constexpr std::string_view kBest = "mass";
constexpr std::string_view kBlind = "random";

// "quest" of "quest:page=32" and of "paged:select=quest".
std::string selection_of(const LabRow& row) {
  if (row.spec.empty()) return {};
  return cache::KeyBudget(cache::CacheSpec::parse(row.spec)).selection();
}

const LabRow* in_frame(const std::vector<LabRow>& rows, const LabRow& row,
                       std::string_view selection) {
  if (row.frame.empty()) return nullptr;
  const auto found = std::ranges::find_if(rows, [&](const LabRow& other) {
    return other.frame == row.frame && other.counts() && selection_of(other) == selection;
  });
  return found == rows.end() ? nullptr : &*found;
}

std::string interval(const LabQuality& quality) {
  return fmt::format("{:.1f}% ({:.1f}-{:.1f})", 100.0 * quality.agreement.value_or(0.0),
                     100.0 * quality.agreement_low.value_or(0.0),
                     100.0 * quality.agreement_high.value_or(0.0));
}

bool is_judged(const LabRow& row) { return row.counts() && row.quality.compared > 0; }

void compare(const std::string& name, const LabRow& better, const LabRow& worse,
             std::vector<LabCheck>& checks) {
  if (!is_judged(better) || !is_judged(worse)) return;
  checks.push_back({.name = name,
                    .better = better.name,
                    .worse = worse.name,
                    .text = interval(better.quality) + " against " + interval(worse.quality),
                    .passed = *better.quality.agreement_high >= *worse.quality.agreement_low});
}

double percent_of(const LabRow& row) {
  return row.budget.empty() ? std::nan("") : std::stod(row.budget);
}

// The next smaller budget of the same policy.
const LabRow* next_smaller(const std::vector<LabRow>& rows, const LabRow& row) {
  const LabRow* next = nullptr;
  for (const LabRow& other : rows) {
    if (other.given != row.given || other.role != row.role || !is_judged(other)) continue;
    if (!(percent_of(other) < percent_of(row))) continue;
    if (next == nullptr || percent_of(other) > percent_of(*next)) next = &other;
  }
  return next;
}

}  // namespace

std::vector<LabCheck> lab_checks(const std::vector<LabRow>& rows) {
  std::vector<LabCheck> checks;
  const auto full = std::ranges::find(rows, LabRole::kFull, &LabRow::role);
  for (const LabRow& row : rows) {
    if (row.role == LabRole::kFull || row.role == LabRole::kNoise) continue;
    if (full != rows.end()) compare("full >= policy", *full, row, checks);
  }
  for (const LabRow& row : rows) {
    if (row.role != LabRole::kPolicy || selection_of(row) == kBlind) continue;
    if (const LabRow* random = in_frame(rows, row, kBlind)) {
      compare("policy >= random", row, *random, checks);
    }
  }
  for (const LabRow& row : rows) {
    if (row.budget.empty() || !is_judged(row)) continue;
    if (const LabRow* smaller = next_smaller(rows, row)) {
      compare("larger budget >= smaller", row, *smaller, checks);
    }
  }
  return checks;
}

void set_regrets(std::vector<LabRow>& rows) {
  for (LabRow& row : rows) {
    if (!row.counts() || selection_of(row) == kBest || !row.quality.kl_mean) continue;
    const LabRow* best = in_frame(rows, row, kBest);
    if (best == nullptr || !best->quality.kl_mean) continue;
    row.regret_difference = *row.quality.kl_mean - *best->quality.kl_mean;
    if (*best->quality.kl_mean > 0.0) {
      row.regret_ratio = *row.quality.kl_mean / *best->quality.kl_mean;
    }
  }
}

}  // namespace kvtool::run
