#include "kvtool/cache/predictive_residency.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::cache {
namespace {

constexpr double kKept = 7.0 / 8.0;  // of what earlier steps showed
constexpr double kGain = 1.0 / 2.0;
constexpr double kFall = 1.0 / 16.0;
constexpr double kLeastLog2 = -16.0;

}  // namespace

void PredictiveResidency::Odds::add(bool is_true) {
  trials = kKept * trials + 1.0;
  came_true = kKept * came_true + (is_true ? 1.0 : 0.0);
}

PredictiveResidency::Page& PredictiveResidency::in_frame(PageId page) {
  const auto found = pages_.find(page);
  if (found != pages_.end() && found->second.has_frame) return found->second;
  throw_misuse("page " + std::to_string(page) + " has no frame");
}

void PredictiveResidency::enter(PageId page) {
  Page& entering = pages_[page];
  if (entering.has_frame) throw_misuse("page " + std::to_string(page) + " has a frame already");
  entering.has_frame = true;
  entering.last_use = ++now_;
}

void PredictiveResidency::use(PageId page) { in_frame(page).last_use = ++now_; }

void PredictiveResidency::leave(PageId page) { in_frame(page).has_frame = false; }

double PredictiveResidency::rank_of(const Page& page) const {
  switch (settings_.rank) {
    case PageRank::kMass: return page.mass;
    case PageRank::kFrequency: return page.frequency;
    case PageRank::kConfidence:
      return page.mass * page.followed[page.used.value_or(false) ? 1 : 0].rate();
  }
  return 0.0;
}

double PredictiveResidency::rank(PageId page) const {
  const auto found = pages_.find(page);
  return found == pages_.end() ? 0.0 : rank_of(found->second);
}

double PredictiveResidency::threshold() const { return std::exp2(log2_threshold_); }

std::vector<PredictiveResidency::Ranked> PredictiveResidency::ranked(
    bool has_frame, const std::function<bool(PageId)>& may_go) const {
  std::vector<Ranked> found;
  for (const auto& [id, page] : pages_) {
    if (page.has_frame != has_frame || (has_frame && !may_go(id))) continue;
    found.push_back({rank_of(page), page.last_use, id});
  }
  return found;
}

PageId PredictiveResidency::victim(const std::function<bool(PageId)>& may_go) {
  const std::vector<Ranked> held = ranked(true, may_go);
  if (held.empty()) throw_misuse("no page may lose its frame");
  return std::ranges::min_element(held)->page;
}

void PredictiveResidency::observe(std::span<const PageScore> step) {
  judge(step);
  for (auto& [id, page] : pages_) {
    page.mass = 0.0;
    page.frequency *= kKept;
  }
  for (const PageScore& score : step) show(score);
}

void PredictiveResidency::show(const PageScore& score) {
  Page& page = pages_[score.page];
  page.mass = score.mass > 0.0 ? score.mass : 0.0;  // not NaN either
  if (score.used) page.frequency += 1.0 - kKept;
  if (page.used) page.followed[*page.used ? 1 : 0].add(score.used);
  page.used = score.used;
}

// What was wanted for this step; then the threshold moves.
void PredictiveResidency::judge(std::span<const PageScore> step) {
  const auto came_true = std::ranges::count_if(step, [&](const PageScore& score) {
    return score.used && std::ranges::find(wanted_, score.page) != wanted_.end();
  });
  if (!wanted_.empty()) {
    const double too_many =
        settings_.precision * static_cast<double>(wanted_.size()) - static_cast<double>(came_true);
    log2_threshold_ += kGain * too_many / static_cast<double>(settings_.prefetch);
  } else if (held_back_) {
    log2_threshold_ -= kFall;
  }
  log2_threshold_ = std::clamp(log2_threshold_, kLeastLog2, 0.0);
  wanted_.clear();
  held_back_ = false;
}

std::vector<PageId> PredictiveResidency::wanted(std::uint64_t free,
                                                const std::function<bool(PageId)>& may_go) {
  std::vector<Ranked> missing = ranked(false, may_go);
  std::vector<Ranked> held = ranked(true, may_go);
  // Of equal rank the one that was used last is the better one, in both.
  std::ranges::sort(missing, std::ranges::greater{});
  std::ranges::sort(held);
  std::vector<PageId> best;
  for (const Ranked& page : missing) {
    if (wanted_.size() == settings_.prefetch) break;
    const std::size_t taken = best.size();
    if (taken >= free) {
      const std::size_t victim = taken - free;
      if (victim == held.size() || page.rank <= held[victim].rank) break;
    }
    if (page.rank < threshold()) {
      held_back_ = held_back_ || page.rank > 0.0;
      break;
    }
    best.push_back(page.page);
    wanted_.push_back(page.page);
  }
  return best;
}

std::unique_ptr<Residency> make_predictive(const PredictionSettings& settings) {
  return std::make_unique<PredictiveResidency>(settings);
}

}  // namespace kvtool::cache
