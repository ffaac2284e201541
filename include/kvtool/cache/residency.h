// Which pages stay where room is short: the axis of a cache that changes time and traffic alone.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace kvtool::cache {

using PageId = std::uint64_t;

// What a step of one layer and input showed of a page that it could see.
struct PageScore {
  PageId page = 0;
  // Share of the step's attention, as far as it is known, in [0, 1]; 1: every step sees the page.
  double mass = 0.0;
  bool used = false;
};

// Keeps book of the pages that have a frame; who owns the frames moves the bytes. Pages are told
// one use at a time, in order. Errors kMisuse: a page that enters twice, or is used or leaves
// without being there.
class Residency {
 public:
  virtual ~Residency() = default;

  // `page` got a frame, which is its first use.
  virtual void enter(PageId page) = 0;
  // It was used again.
  virtual void use(PageId page) = 0;
  // It lost its frame.
  virtual void leave(PageId page) = 0;
  // The page to take the frame from next, of those that `may_go` says yes to; it stays until
  // leave(). Error kMisuse where there is none.
  virtual PageId victim(const std::function<bool(PageId)>& may_go) = 0;

  // Whether it learns from observe(); else no one need find out what to tell.
  [[nodiscard]] virtual bool is_observing() const { return false; }
  // Of a step of which something is known beside its uses: all pages that it could see.
  virtual void observe(std::span<const PageScore> /*step*/) {}
  // Pages without a frame to fetch ahead of the next step, best first, to be taken one after the
  // other into one of the `free` frames, then into those of victims: each is worth more than the
  // page that goes for it.
  [[nodiscard]] virtual std::vector<PageId> wanted(std::uint64_t /*free*/,
                                                   const std::function<bool(PageId)>& /*may_go*/) {
    return {};
  }
};

// By what pages are ranked that a later step may use.
enum class PageRank : std::uint8_t { kMass, kFrequency, kConfidence };
inline constexpr std::array<std::string_view, 3> kPageRankWords = {"mass", "frequency",
                                                                   "confidence"};

struct PredictionSettings {
  PageRank rank = PageRank::kConfidence;
  std::uint64_t prefetch = 4;  // pages that are wanted for a step, at most
  double precision = 0.5;      // share of them that should be used
};

struct ResidencyInfo {
  std::string_view name;
  std::string_view summary;
  // The settings are of those that predict.
  std::unique_ptr<Residency> (*make)(const PredictionSettings& settings);
};

std::unique_ptr<Residency> make_lru(const PredictionSettings& settings = {});
std::unique_ptr<Residency> make_clock(const PredictionSettings& settings = {});
std::unique_ptr<Residency> make_lru2(const PredictionSettings& settings = {});
std::unique_ptr<Residency> make_predictive(const PredictionSettings& settings);

inline constexpr std::array kResidencies = {
    ResidencyInfo{"lru", "the page goes whose last use is longest ago", make_lru},
    ResidencyInfo{"clock", "a hand passes over pages used since it came last", make_clock},
    ResidencyInfo{"lru2", "the page goes whose last use but one is longest ago: a scan passes by",
                  make_lru2},
    ResidencyInfo{"predictive",
                  "the page goes that later steps least likely use, by what steps showed of pages",
                  make_predictive},
};

inline constexpr auto kResidencyWords = [] {
  std::array<std::string_view, kResidencies.size()> words{};
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = kResidencies[i].name;
  return words;
}();

// Error kMisuse for a name that is not in kResidencies.
[[nodiscard]] std::unique_ptr<Residency> make_residency(std::string_view name,
                                                        const PredictionSettings& settings = {});

}  // namespace kvtool::cache
