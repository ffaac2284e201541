#include "kvtool/cache/cache_use.h"

#include <algorithm>

namespace kvtool::cache {

double CacheUse::usage() const {
  return capacity == 0 ? 0.0 : static_cast<double>(length) / static_cast<double>(capacity);
}

CacheUse& CacheUse::operator+=(const CacheUse& other) {
  length = std::max(length, other.length);
  capacity = std::max(capacity, other.capacity);
  logical_bytes += other.logical_bytes;
  physical_bytes += other.physical_bytes;
  peak_bytes += other.peak_bytes;
  moved_bytes += other.moved_bytes;
  applied_rows += other.applied_rows;
  evicted_rows += other.evicted_rows;
  paged_out += other.paged_out;
  read_back += other.read_back;
  emulated_link = emulated_link || other.emulated_link;
  visible_keys += other.visible_keys;
  seen_keys += other.seen_keys;
  most_visible_keys = std::max(most_visible_keys, other.most_visible_keys);
  pages += other.pages;
  for (const PlaceBytes& theirs : other.places) {
    const auto same = [&](const PlaceBytes& ours) { return ours.place == theirs.place; };
    const auto ours = std::find_if(places.begin(), places.end(), same);
    if (ours == places.end()) {
      places.push_back(theirs);
    } else {
      ours->bytes += theirs.bytes;
      ours->peak_bytes += theirs.peak_bytes;
    }
  }
  return *this;
}

}  // namespace kvtool::cache
