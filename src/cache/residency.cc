#include "kvtool/cache/residency.h"

#include <list>
#include <string>
#include <unordered_map>
#include <utility>

#include "kvtool/base/error.h"

namespace kvtool::cache {
namespace {

[[noreturn]] void throw_not_there(PageId page) {
  throw_misuse("page " + std::to_string(page) + " has no frame");
}

[[noreturn]] void throw_twice(PageId page) {
  throw_misuse("page " + std::to_string(page) + " has a frame already");
}

[[noreturn]] void throw_no_victim() { throw_misuse("no page may lose its frame"); }

// The page with the least key goes; ties to the lowest page.
template <typename Uses>
class ByUses : public Residency {
 public:
  void enter(PageId page) override {
    if (!pages_.try_emplace(page, Uses(++now_)).second) throw_twice(page);
  }
  void use(PageId page) override { at(page).use(++now_); }
  void leave(PageId page) override {
    if (pages_.erase(page) == 0) throw_not_there(page);
  }
  PageId victim(const std::function<bool(PageId)>& may_go) override {
    const std::pair<const PageId, Uses>* best = nullptr;
    for (const auto& entry : pages_) {
      if (!may_go(entry.first)) continue;
      if (best == nullptr ||
          std::pair(entry.second.key(), entry.first) < std::pair(best->second.key(), best->first)) {
        best = &entry;
      }
    }
    if (best == nullptr) throw_no_victim();
    return best->first;
  }

 private:
  Uses& at(PageId page) {
    const auto found = pages_.find(page);
    if (found == pages_.end()) throw_not_there(page);
    return found->second;
  }

  std::unordered_map<PageId, Uses> pages_;
  std::uint64_t now_ = 0;
};

struct LastUse {
  explicit LastUse(std::uint64_t now) : last(now) {}
  void use(std::uint64_t now) { last = now; }
  [[nodiscard]] std::uint64_t key() const { return last; }

  std::uint64_t last;
};

// O'Neil, O'Neil and Weikum, The LRU-K page replacement algorithm, SIGMOD 1993, K = 2: a page
// that was used once has an infinite distance; of those the least recently used goes first.
struct LastUseButOne {
  explicit LastUseButOne(std::uint64_t now) : last(now) {}
  void use(std::uint64_t now) {
    before = last;
    last = now;
  }
  [[nodiscard]] std::pair<std::uint64_t, std::uint64_t> key() const { return {before, last}; }

  std::uint64_t last;
  std::uint64_t before = 0;
};

// Corbató, A paging experiment with the Multics system, 1968.
class Clock : public Residency {
 public:
  void enter(PageId page) override {
    if (where_.contains(page)) throw_twice(page);
    // Behind the hand: it comes there last.
    where_[page] = ring_.insert(hand_, {page, true});
    if (ring_.size() == 1) hand_ = ring_.begin();
  }
  void use(PageId page) override { at(page)->used = true; }
  void leave(PageId page) override {
    const auto entry = at(page);
    if (entry == hand_) advance();
    where_.erase(page);
    const bool was_hand = entry == hand_;  // the only one
    ring_.erase(entry);
    if (was_hand) hand_ = ring_.end();
  }
  PageId victim(const std::function<bool(PageId)>& may_go) override {
    // Twice around: once to take the marks away, once to find a page without.
    for (std::size_t i = 0; i < 2 * ring_.size(); ++i, advance()) {
      if (!may_go(hand_->page)) continue;
      if (!hand_->used) return hand_->page;
      hand_->used = false;
    }
    if (!ring_.empty() && may_go(hand_->page)) return hand_->page;
    throw_no_victim();
  }

 private:
  struct Entry {
    PageId page;
    bool used;
  };
  using Ring = std::list<Entry>;

  Ring::iterator at(PageId page) {
    const auto found = where_.find(page);
    if (found == where_.end()) throw_not_there(page);
    return found->second;
  }
  void advance() {
    if (ring_.empty()) return;
    if (++hand_ == ring_.end()) hand_ = ring_.begin();
  }

  Ring ring_;
  Ring::iterator hand_ = ring_.end();
  std::unordered_map<PageId, Ring::iterator> where_;
};

}  // namespace

std::unique_ptr<Residency> make_lru(const PredictionSettings&) {
  return std::make_unique<ByUses<LastUse>>();
}
std::unique_ptr<Residency> make_lru2(const PredictionSettings&) {
  return std::make_unique<ByUses<LastUseButOne>>();
}
std::unique_ptr<Residency> make_clock(const PredictionSettings&) {
  return std::make_unique<Clock>();
}

std::unique_ptr<Residency> make_residency(std::string_view name,
                                          const PredictionSettings& settings) {
  for (const ResidencyInfo& info : kResidencies) {
    if (info.name == name) return info.make(settings);
  }
  throw_misuse("no residency is called '" + std::string(name) + "'");
}

}  // namespace kvtool::cache
