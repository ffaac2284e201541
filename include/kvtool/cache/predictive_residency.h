// Residency by prediction: the scores of the steps so far say which pages the next one may use.
//
// With m the page's share of attention in the last step and u whether that step used it (1 or 0),
// a page is ranked, from 0 to 1, by
//
//   mass        m
//   frequency   f = 7/8 f + 1/8 u in every step, from 0 on: its uses, each counting less the longer
//               it is ago (the CRF of Lee et al., LRFU, IEEE Transactions on Computers 50 (12),
//               2001, scaled to 1 for a page that is always used)
//   confidence  m · (a + 1) / (b + 2): the share times how likely the page is used after a step
//   that
//               used it, or after one that did not, whichever the last one was. b counts those
//               steps, a those that a use followed, both · 7/8 before each is counted; Laplace's
//               rule of succession makes it 1/2 where nothing is known. A Markov predictor (Joseph
//               and Grunwald, ISCA 1997) of two states
//
// After a step the pages of the highest rank are wanted, at most `prefetch`, if the rank is at
// least the threshold t and larger than that of the page that would have to go. From 2^-8 on, t
// moves with each step, within 2^-16 and 1:
//
//   log2 t += 1/2 · (precision · n - h) / prefetch    n were wanted for the step, h of them it used
//   log2 t -= 1/16                                    where n = 0, and t alone held some page back
//
// The sum of the first line is what log2 t has moved, so over many steps the share that came true
// is `precision`, whatever the ranks are worth, as long as t is within its bounds (Gibbs and
// Candès, arXiv:2106.00263, do the same to a confidence level). The second line lets it try again.
#pragma once

#include <array>
#include <optional>
#include <unordered_map>

#include "kvtool/cache/residency.h"

namespace kvtool::cache {

// Of equal rank the page goes whose last use is longest ago, then the lower one: where no step is
// observed, the least recently used.
class PredictiveResidency : public Residency {
 public:
  explicit PredictiveResidency(const PredictionSettings& settings) : settings_(settings) {}

  void enter(PageId page) override;
  void use(PageId page) override;
  void leave(PageId page) override;
  PageId victim(const std::function<bool(PageId)>& may_go) override;

  [[nodiscard]] bool is_observing() const override { return true; }
  void observe(std::span<const PageScore> step) override;
  [[nodiscard]] std::vector<PageId> wanted(std::uint64_t free,
                                           const std::function<bool(PageId)>& may_go) override;

  // Of a page that no step showed: 0.
  [[nodiscard]] double rank(PageId page) const;
  [[nodiscard]] double threshold() const;

 private:
  // How often something came true, older trials counting less.
  struct Odds {
    double trials = 0.0;
    double came_true = 0.0;

    void add(bool is_true);
    [[nodiscard]] double rate() const { return (came_true + 1.0) / (trials + 2.0); }
  };
  struct Page {
    bool has_frame = false;
    std::uint64_t last_use = 0;
    double mass = 0.0;
    double frequency = 0.0;
    std::optional<bool> used;      // in the last step that showed it
    std::array<Odds, 2> followed;  // by a use: steps that did not use it, steps that did
  };
  struct Ranked {
    double rank = 0.0;
    std::uint64_t last_use = 0;
    PageId page = 0;

    friend auto operator<=>(const Ranked&, const Ranked&) = default;
  };

  [[nodiscard]] double rank_of(const Page& page) const;
  // Pages with a frame that may go, or pages without one.
  [[nodiscard]] std::vector<Ranked> ranked(bool has_frame,
                                           const std::function<bool(PageId)>& may_go) const;
  [[nodiscard]] Page& in_frame(PageId page);
  void judge(std::span<const PageScore> step);
  void show(const PageScore& score);

  PredictionSettings settings_;
  std::unordered_map<PageId, Page> pages_;
  std::uint64_t now_ = 0;
  std::vector<PageId> wanted_;  // for the step that is observed next
  bool held_back_ = false;      // some page by the threshold alone
  double log2_threshold_ = -8.0;
};

}  // namespace kvtool::cache
