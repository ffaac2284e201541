#include "kvtool/cache/layer_list.h"

#include <algorithm>
#include <charconv>

namespace kvtool::cache {
namespace {

constexpr std::string_view kAllLayers = "all";
constexpr char kBetweenRanges = '+';
constexpr char kWithinRange = '-';
// More than any model has.
constexpr std::uint64_t kMostLayers = std::uint64_t{1} << 31;

std::optional<std::uint64_t> parse_layer(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool is_whole = error == std::errc() && end == text.data() + text.size();
  return is_whole && number < kMostLayers ? std::optional(number) : std::nullopt;
}

}  // namespace

std::optional<LayerList> LayerList::parse(std::string_view text) {
  LayerList list;
  if (text == kAllLayers) return list;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(kBetweenRanges, begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    const std::size_t dash = std::min(part.find(kWithinRange), part.size());
    const auto first = parse_layer(part.substr(0, dash));
    const auto last = dash == part.size() ? first : parse_layer(part.substr(dash + 1));
    if (!first || !last || *last < *first) return std::nullopt;
    list.ranges_.push_back({*first, *last});
    begin = end + 1;
  }
  list.tidy();
  return list;
}

void LayerList::tidy() {
  std::ranges::sort(ranges_, {}, &Range::first);
  std::vector<Range> merged;
  for (const Range& range : ranges_) {
    if (!merged.empty() && range.first <= merged.back().last + 1) {
      merged.back().last = std::max(merged.back().last, range.last);
    } else {
      merged.push_back(range);
    }
  }
  ranges_ = std::move(merged);
}

bool LayerList::contains(std::uint64_t layer) const {
  return is_all() || std::ranges::any_of(ranges_, [&](const Range& range) {
           return range.first <= layer && layer <= range.last;
         });
}

std::string LayerList::to_string() const {
  if (is_all()) return std::string(kAllLayers);
  std::string text;
  for (const Range& range : ranges_) {
    if (!text.empty()) text += kBetweenRanges;
    text += std::to_string(range.first);
    if (range.last != range.first) text += kWithinRange + std::to_string(range.last);
  }
  return text;
}

}  // namespace kvtool::cache
