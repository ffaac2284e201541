#include "breakeven.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>

#include "kvtool/analysis/statistics.h"

namespace kvtool::run {
namespace {

// Steps whose median is one point of the fit: what disturbs single steps is left out.
constexpr std::size_t kStretchBlock = 16;
constexpr std::size_t kLeastStretches = 4;
constexpr double kLeastStretch = 1.25;  // of the positions, longest to shortest
constexpr double kNormalQuantile = 1.96;

struct Block {
  double positions = 0.0;
  double milliseconds = 0.0;  // policy minus full
};

std::vector<Block> blocks_of(const LabTime& policy, const LabTime& full) {
  std::vector<Block> blocks;
  const std::size_t size = policy.step_ms.size();
  for (std::size_t first = 0; first < size;) {
    // Of one input: positions of another begin anew.
    std::size_t end = first + 1;
    while (end < size && end - first < kStretchBlock &&
           policy.step_positions[end] > policy.step_positions[end - 1]) {
      ++end;
    }
    std::vector<double> differences;
    double positions = 0.0;
    for (std::size_t i = first; i < end; ++i) {
      differences.push_back(policy.step_ms[i] - full.step_ms[i]);
      positions += policy.step_positions[i];
    }
    blocks.push_back({positions / static_cast<double>(end - first),
                      analysis::quantile(differences, 0.5).value_or(0.0)});
    first = end;
  }
  return blocks;
}

// Ordinary least squares; half widths of the 95 % interval of the line by the normal distribution.
class Line {
 public:
  explicit Line(std::span<const Block> blocks) : count_(static_cast<double>(blocks.size())) {
    double sum = 0.0;
    for (const Block& block : blocks) {
      mean_ += block.positions / count_;
      sum += block.milliseconds / count_;
    }
    double product = 0.0;
    for (const Block& block : blocks) {
      spread_ += (block.positions - mean_) * (block.positions - mean_);
      product += (block.positions - mean_) * (block.milliseconds - sum);
    }
    slope_ = product / spread_;
    at_zero_ = sum - slope_ * mean_;
    double squares = 0.0;
    for (const Block& block : blocks) {
      const double miss = block.milliseconds - at(block.positions);
      squares += miss * miss;
    }
    error_ = std::sqrt(squares / (count_ - 2.0));
  }

  [[nodiscard]] double slope() const { return slope_; }
  [[nodiscard]] double at_zero() const { return at_zero_; }
  [[nodiscard]] double at(double positions) const { return at_zero_ + slope_ * positions; }
  [[nodiscard]] double half_at(double positions) const {
    const double away = positions - mean_;
    return kNormalQuantile * error_ * std::sqrt(1.0 / count_ + away * away / spread_);
  }
  [[nodiscard]] double slope_half() const { return kNormalQuantile * error_ / std::sqrt(spread_); }

 private:
  double count_;
  double mean_ = 0.0;
  double spread_ = 0.0;
  double slope_ = 0.0;
  double at_zero_ = 0.0;
  double error_ = 0.0;
};

// One for one: the same steps.
bool timed_alike(const LabTime& policy, const LabTime& full) {
  return policy.measured() && policy.step_ms.size() == full.step_ms.size() &&
         policy.step_positions.size() == policy.step_ms.size();
}

LabBreakeven breakeven_of(const LabRow& row, const LabRow& full) {
  LabBreakeven result;
  result.name = row.name;
  if (!timed_alike(row.time, full.time)) {
    result.missing = "its steps and those of full were not both timed";
    return result;
  }
  const auto [shortest, longest] = std::ranges::minmax(row.time.step_positions);
  result.shortest = static_cast<std::uint64_t>(shortest);
  result.longest = static_cast<std::uint64_t>(longest);
  const std::vector<Block> blocks = blocks_of(row.time, full.time);
  if (blocks.size() < kLeastStretches || longest < kLeastStretch * shortest) {
    result.missing = "the recordings are of too few lengths to fit a line: record several";
    return result;
  }
  const Line line(blocks);
  result.at_zero = line.at_zero();
  result.slope = line.slope();
  result.slope_half = line.slope_half();
  result.at_shortest = line.at(shortest);
  result.at_shortest_half = line.half_at(shortest);
  result.at_longest = line.at(longest);
  result.at_longest_half = line.half_at(longest);
  const double crossing = -line.at_zero() / line.slope();
  if (std::isfinite(crossing) && crossing > 0.0) result.crossing = crossing;
  return result;
}

}  // namespace

LabBreakeven::Verdict LabBreakeven::verdict() const {
  const bool tells_short = std::abs(at_shortest) > at_shortest_half;
  const bool tells_long = std::abs(at_longest) > at_longest_half;
  if (!tells_short && !tells_long) return Verdict::kCannotTell;
  const bool pays_short = at_shortest < 0.0;
  const bool pays_long = at_longest < 0.0;
  if (pays_short == pays_long) return pays_long ? Verdict::kPaysAlways : Verdict::kPaysNever;
  // An end that says nothing makes no crossing.
  if (pays_long) return tells_long ? Verdict::kPaysFrom : Verdict::kPaysNever;
  return tells_short ? Verdict::kPaysUpTo : Verdict::kPaysNever;
}

std::vector<LabBreakeven> lab_breakeven(const std::vector<LabRow>& rows) {
  std::vector<LabBreakeven> results;
  const auto full = std::ranges::find(rows, LabRole::kFull, &LabRow::role);
  if (full == rows.end() || !full->ran()) return results;
  for (const LabRow& row : rows) {
    if (row.role == LabRole::kPolicy && row.counts()) results.push_back(breakeven_of(row, *full));
  }
  return results;
}

}  // namespace kvtool::run
