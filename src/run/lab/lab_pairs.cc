#include "lab_pairs.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kvtool/analysis/statistics.h"
#include "kvtool/cache/cache_spec.h"
#include "kvtool/cache/key_budget.h"

namespace kvtool::run {
namespace {

constexpr std::size_t kBlock = 16;
constexpr std::size_t kLeastBlocks = 4;
constexpr double kNormal95 = 1.96;

// What mass knows no real system does, and random is what choosing is compared with.
bool is_contender(const LabRow& row) {
  if (!row.counts() || row.frame.empty() || row.step_kl.empty() || !row.quality.kl_mean) {
    return false;
  }
  const std::string selection = cache::KeyBudget(cache::CacheSpec::parse(row.spec)).selection();
  return selection != "mass" && selection != "random";
}

// Windows stand in one frame alone, whatever the pages of the others are.
bool is_window(const LabRow& row) { return row.spec.starts_with("window"); }

bool comparable(const LabRow& a, const LabRow& b) {
  if (a.frame == b.frame) return true;
  return !a.budget.empty() && a.budget == b.budget && (is_window(a) || is_window(b));
}

struct Differences {
  std::uint64_t steps = 0;
  double sum = 0.0;
  std::vector<double> block_means;
};

Differences differences_of(const LabRow& other, const LabRow& best) {
  Differences all;
  for (std::size_t input = 0; input < std::min(other.step_kl.size(), best.step_kl.size());
       ++input) {
    const std::vector<double>& a = other.step_kl[input];
    const std::vector<double>& b = best.step_kl[input];
    const std::size_t size = std::min(a.size(), b.size());
    for (std::size_t first = 0; first < size; first += kBlock) {
      double sum = 0.0;
      std::uint64_t count = 0;
      for (std::size_t i = first; i < std::min(size, first + kBlock); ++i) {
        const double difference = a[i] - b[i];
        if (std::isnan(difference)) continue;
        sum += difference;
        ++count;
      }
      if (count == 0) continue;
      all.steps += count;
      all.sum += sum;
      all.block_means.push_back(sum / static_cast<double>(count));
    }
  }
  return all;
}

std::optional<double> half_width(const std::vector<double>& means) {
  if (means.size() < kLeastBlocks) return std::nullopt;
  return kNormal95 * analysis::standard_error_of_mean(means);
}

LabPair pair_of(const LabRow& best, const LabRow& other) {
  const Differences differences = differences_of(other, best);
  LabPair pair{.budget = best.budget.empty() ? best.frame : best.budget,
               .best = best.name,
               .other = other.name};
  pair.steps = differences.steps;
  pair.best_kl = best.quality.kl_mean.value_or(0.0);
  if (differences.steps > 0) pair.difference = differences.sum / static_cast<double>(pair.steps);
  pair.half95 = half_width(differences.block_means);
  pair.best_read = best.bytes.read_bytes_per_step;
  pair.other_read = other.bytes.read_bytes_per_step;
  return pair;
}

}  // namespace

std::vector<LabPair> lab_pairs(const std::vector<LabRow>& rows) {
  std::vector<LabPair> pairs;
  std::vector<std::string> frames;
  for (const LabRow& row : rows) {
    if (!is_contender(row) || is_window(row)) continue;
    if (std::ranges::find(frames, row.frame) != frames.end()) continue;
    frames.push_back(row.frame);
    // A window's share is of the longest input, more than that of the others: it is compared, and
    // cannot win.
    const LabRow* best = &row;
    std::vector<const LabRow*> contenders;
    for (const LabRow& other : rows) {
      if (!is_contender(other) || !comparable(row, other)) continue;
      contenders.push_back(&other);
      if (!is_window(other) && *other.quality.kl_mean < *best->quality.kl_mean) best = &other;
    }
    for (const LabRow* other : contenders) {
      if (other != best) pairs.push_back(pair_of(*best, *other));
    }
  }
  return pairs;
}

}  // namespace kvtool::run
