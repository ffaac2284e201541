// How many of the keys that a query could see a policy shows it, without torch: the engine
// chooses by it, the memory plan counts by it, and a run is held to it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kvtool/cache/cache_spec.h"

namespace kvtool::cache {

// Where a query stands and how far its layer's own window reaches (0: there is none).
struct QueryPlace {
  std::uint64_t position = 0;
  std::uint64_t window = 0;

  // The first position that it could see.
  [[nodiscard]] std::uint64_t first_visible() const {
    return window > 0 && position >= window ? position - window + 1 : 0;
  }
  [[nodiscard]] std::uint64_t visible() const { return position + 1 - first_visible(); }

  friend bool operator==(const QueryPlace&, const QueryPlace&) = default;
};

// What a step's query sees where it does not see everything, by pages: positions before
// `sinks_end`, the page `recent_page` and all after it, and `chosen` of the pages
// [first_candidate, recent_page); of them all what its layer shows.
struct PageSplit {
  std::uint64_t sinks_end = 0;
  std::uint64_t first_candidate = 0;
  std::uint64_t recent_page = 0;
  std::uint64_t chosen = 0;
};

// What steps see: of a policy that shows its queries a part of their keys, how large that part
// is; of any other, everything.
class KeyBudget {
 public:
  explicit KeyBudget(const CacheSpec& spec);

  // Whether it is of pages.
  [[nodiscard]] bool selects_pages() const { return kind_ == Kind::kPages; }
  // Whether it chooses in this layer at all.
  [[nodiscard]] bool selects(std::uint64_t layer) const;
  // Keys that a step's query sees in a layer where it chooses.
  [[nodiscard]] std::uint64_t seen(const QueryPlace& query) const;

  // Positions of an input of `positions` that no later query sees in a layer whose own window
  // reaches so far (0: it has none), although the layer would have shown them.
  [[nodiscard]] std::uint64_t evicted(std::uint64_t positions, std::uint64_t window) const;

  // Of a policy that selects pages: how a query's keys are divided; nothing where it sees all.
  [[nodiscard]] std::optional<PageSplit> split(const QueryPlace& query) const;

  // Error kUsage where what is seen in any case takes more than the budget at the end of an input
  // of `positions`; it names the least budget.
  void check(std::uint64_t positions) const;

  // Of a window: whether keys stand where they are in the cache, the sinks right before the recent
  // ones, rather than in the input.
  [[nodiscard]] bool closes_up() const { return closes_up_; }

  // The policy whose choice it is.
  [[nodiscard]] const std::string& selection() const { return selection_; }
  // In positions, of a policy that selects pages in pages.
  [[nodiscard]] std::uint64_t sinks() const { return sinks_; }
  [[nodiscard]] std::uint64_t recent() const { return recent_; }
  // Positions of one.
  [[nodiscard]] std::uint64_t page() const { return page_; }

 private:
  enum class Kind : std::uint8_t { kEverything, kWindow, kPages };

  // Of so many that a query could see.
  [[nodiscard]] std::uint64_t budget_of(std::uint64_t pages) const;
  [[nodiscard]] std::uint64_t seen_of_window(const QueryPlace& query) const;
  [[nodiscard]] std::uint64_t seen_of_pages(const QueryPlace& query) const;

  std::string spec_;
  std::string selection_;
  Kind kind_ = Kind::kEverything;
  std::uint64_t sinks_ = 0;
  std::uint64_t recent_ = 0;
  std::uint64_t page_ = 1;
  std::uint64_t amount_ = 0;    // pages
  std::optional<Share> share_;  // of them, instead
  std::uint64_t dense_layers_ = 0;
  bool closes_up_ = false;
};

}  // namespace kvtool::cache
