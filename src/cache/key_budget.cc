#include "kvtool/cache/key_budget.h"

#include <algorithm>

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"

namespace kvtool::cache {
namespace {

// No input has more positions; sums of such numbers fit into 64 bits.
constexpr std::uint64_t kMostPositions = std::uint64_t{1} << 40;

std::uint64_t capped(std::uint64_t number) { return std::min(number, kMostPositions); }

std::uint64_t ceiling(std::uint64_t number, std::uint64_t unit) {
  return number / unit + (number % unit == 0 ? 0 : 1);
}

std::string counted(std::uint64_t number, const std::string& thing) {
  return std::to_string(number) + " " + thing + (number == 1 ? "" : "s");
}

}  // namespace

KeyBudget::KeyBudget(const CacheSpec& spec)
    : spec_(spec.to_string()),
      selection_(spec.has(kSelectName) ? spec.word(kSelectName) : spec.policy()) {
  const bool has_pages = spec.has("budget");
  if (spec.policy() != "window" && !has_pages) return;
  kind_ = has_pages ? Kind::kPages : Kind::kWindow;
  sinks_ = capped(spec.number("sinks"));
  recent_ = capped(spec.number("recent"));
  if (!has_pages) {
    closes_up_ = spec.word("positions") == "cache";
    return;
  }
  page_ = capped(spec.number("page"));
  if (spec.is_share("budget")) {
    share_ = spec.share("budget");
  } else {
    amount_ = capped(spec.number("budget"));
  }
  dense_layers_ = spec.number("dense");
}

bool KeyBudget::selects(std::uint64_t layer) const {
  return kind_ != Kind::kEverything && layer >= dense_layers_;
}

std::uint64_t KeyBudget::budget_of(std::uint64_t pages) const {
  return share_ ? share_->of(pages) : amount_;
}

std::uint64_t KeyBudget::seen(const QueryPlace& query) const {
  switch (kind_) {
    case Kind::kEverything: break;
    case Kind::kWindow: return seen_of_window(query);
    case Kind::kPages: return seen_of_pages(query);
  }
  return query.visible();
}

std::uint64_t KeyBudget::seen_of_window(const QueryPlace& query) const {
  const std::uint64_t visible = query.visible();
  // The layer's own window counts what is between them, which is nothing.
  if (closes_up_) return std::min(visible, sinks_ + recent_);
  if (visible <= recent_) return visible;
  const std::uint64_t first = query.first_visible();
  const std::uint64_t sinks = first < sinks_ ? sinks_ - first : 0;
  return std::min(visible, recent_ + sinks);
}

std::uint64_t KeyBudget::seen_of_pages(const QueryPlace& query) const {
  const std::optional<PageSplit> parts = split(query);
  if (!parts) return query.visible();
  const std::uint64_t first = query.first_visible();
  const std::uint64_t sinks = parts->sinks_end > first ? parts->sinks_end - first : 0;
  const std::uint64_t recent = query.position + 1 - std::max(first, parts->recent_page * page_);
  return sinks + parts->chosen * page_ + recent;
}

std::uint64_t KeyBudget::evicted(std::uint64_t positions, std::uint64_t window) const {
  if (kind_ != Kind::kWindow || (window > 0 && window <= recent_)) return 0;
  // The next query sees its own key, too, and that is not there yet.
  const std::uint64_t before_recent = positions < recent_ ? 0 : positions - (recent_ - 1);
  return before_recent > sinks_ ? before_recent - sinks_ : 0;
}

std::optional<PageSplit> KeyBudget::split(const QueryPlace& query) const {
  if (kind_ != Kind::kPages) return std::nullopt;
  const std::uint64_t first = query.first_visible();
  const std::uint64_t first_page = first / page_;
  const std::uint64_t end_page = query.position / page_ + 1;
  const std::uint64_t budget = budget_of(end_page - first_page);
  if (end_page - first_page <= budget) return std::nullopt;
  const std::uint64_t sinks_page = std::max(first_page, sinks_);
  const std::uint64_t recent_page = std::max(first_page, end_page - std::min(end_page, recent_));
  // All are sinks or recent.
  if (sinks_page >= recent_page) return std::nullopt;
  PageSplit parts;
  parts.sinks_end = sinks_ * page_;
  parts.recent_page = recent_page;
  // A page that the layer's own window cuts is not among those to choose.
  parts.first_candidate = std::max(sinks_page, ceiling(first, page_));
  const std::uint64_t always = sinks_page - first_page + end_page - recent_page;
  const std::uint64_t left = budget > always ? budget - always : 0;
  parts.first_candidate = std::min(parts.first_candidate, recent_page);
  parts.chosen = std::min(left, recent_page - parts.first_candidate);
  return parts;
}

void KeyBudget::check(std::uint64_t positions) const {
  if (kind_ != Kind::kPages || positions == 0) return;
  const std::uint64_t pages = ceiling(positions, page_);
  const std::uint64_t always = std::min(pages, sinks_ + recent_);
  if (budget_of(pages) >= always) return;
  const std::string least =
      share_ ? Share::at_least(always, pages).to_string() : std::to_string(always);
  throw_usage(setting("kv_cache") + " " + spec_ + ": at " + counted(positions, "position") + ", " +
              counted(pages, "page") + " of " + std::to_string(page_) + ", the budget is " +
              counted(budget_of(pages), "page") + ", and " + std::to_string(always) +
              " are seen in any case (sinks=" + std::to_string(sinks_) +
              ", recent=" + std::to_string(recent_) + "): use budget=" + least +
              " or more, or fewer sinks or recent pages");
}

}  // namespace kvtool::cache
