#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>

#include "kvtool/analysis/provenance.h"
#include "provenance_table.h"

namespace kvtool::analysis {
namespace {

std::optional<std::uint64_t> number_in(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// META may hold anything where a number belongs.
bool has_range(const ProvenanceDifference& difference) {
  const auto fits = [](const std::string& text) { return text == kUnknown || number_in(text); };
  return difference.key.starts_with(kBatchPrefix) && fits(difference.recorded) &&
         fits(difference.live);
}

}  // namespace

std::string ProvenanceDifference::title() const {
  return is_range ? label + " (" + std::to_string(inputs) + " inputs)" : label;
}

void ProvenanceSummary::Values::add(const std::string& text) {
  const std::optional<std::uint64_t> number = number_in(text);
  has_unknown = has_unknown || !number;
  if (!number) return;
  least = std::min(least.value_or(*number), *number);
  most = std::max(most.value_or(*number), *number);
}

bool ProvenanceSummary::Values::several() const { return least != most || (least && has_unknown); }

std::string ProvenanceSummary::Values::text() const {
  if (!least) return kUnknown;
  std::string range = std::to_string(*least);
  if (least != most) range += " to " + std::to_string(*most);
  return has_unknown ? range + " or " + kUnknown : range;
}

bool ProvenanceSummary::Entry::takes(const ProvenanceDifference& other) const {
  if (difference.key != other.key) return false;
  if (is_pooled && has_range(other)) return true;
  return difference.recorded == other.recorded && difference.live == other.live;
}

void ProvenanceSummary::add(const std::vector<ProvenanceDifference>& differences) {
  for (const ProvenanceDifference& each : differences) {
    auto entry = std::find_if(entries_.begin(), entries_.end(),
                              [&](const Entry& known) { return known.takes(each); });
    if (entry == entries_.end()) {
      entry = entries_.insert(entry, {.difference = each, .is_pooled = has_range(each)});
    } else {
      entry->difference.inputs += each.inputs;
    }
    entry->recorded.add(each.recorded);
    entry->live.add(each.live);
  }
}

std::vector<ProvenanceDifference> ProvenanceSummary::build() const {
  std::vector<ProvenanceDifference> differences;
  for (const Entry& entry : entries_) {
    ProvenanceDifference& each = differences.emplace_back(entry.difference);
    each.is_range = entry.is_pooled && (entry.recorded.several() || entry.live.several());
    if (!each.is_range) continue;
    each.recorded = entry.recorded.text();
    each.live = entry.live.text();
  }
  return differences;
}

}  // namespace kvtool::analysis
