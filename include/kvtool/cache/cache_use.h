// What a cache took, counted while it ran.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvtool/cache/page_traffic.h"

namespace kvtool::cache {

struct PlaceBytes {
  std::string place;  // "cpu", "cuda:0"
  std::uint64_t bytes = 0;
  std::uint64_t peak_bytes = 0;  // the most

  friend bool operator==(const PlaceBytes&, const PlaceBytes&) = default;
};

struct CacheUse {
  std::uint64_t length = 0;    // positions that it holds, of a batch those of the longest input
  std::uint64_t capacity = 0;  // positions of each input that it has room for, padding included
  // K and V of the positions that it holds, as large as the model makes them; no padding.
  std::uint64_t logical_bytes = 0;
  // Allocated: the rows as it keeps them, its tables and its work space.
  std::uint64_t physical_bytes = 0;
  std::uint64_t peak_bytes = 0;    // the most of physical_bytes
  std::vector<PlaceBytes> places;  // physical_bytes, by where they are
  std::uint64_t moved_bytes = 0;   // between places
  std::uint64_t paged_out = 0;     // pages of a layer and input that had to leave the device
  std::uint64_t read_back = 0;     // pages that came back afterwards, when they were read
  bool emulated_link = false;      // moved_bytes took the time of a link that there is not
  // Rows of one layer and position that it keeps otherwise than the model made them, counted
  // each time that one is taken in.
  std::uint64_t applied_rows = 0;
  // Of the rows that it holds those that the policy hides from every later query of their input.
  std::uint64_t evicted_rows = 0;
  // Of a policy that shows a query a part of its keys, over the steps of all rows of the batch
  // and the layers in which it chooses: keys that the model would show, keys that were seen, and
  // the most that a single query could have seen. Of one that fetches all it shows, the last of
  // these alone, of the keys that are in pages.
  std::uint64_t visible_keys = 0;
  std::uint64_t seen_keys = 0;
  std::uint64_t most_visible_keys = 0;
  PageTraffic pages = {};  // of a cache whose pages have more or less room

  // length of capacity; 0 without any.
  [[nodiscard]] double usage() const;
  // Of caches that live at the same time: length and capacity are those of the longest.
  CacheUse& operator+=(const CacheUse& other);
  friend bool operator==(const CacheUse&, const CacheUse&) = default;
};

}  // namespace kvtool::cache
