// What a spec of the policy "paged" says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kvtool/cache/cache_plan.h"
#include "kvtool/cache/cache_spec.h"
#include "kvtool/cache/residency.h"
#include "kvtool/format/geometry.h"

namespace kvtool::cache {

struct PagedSettings {
  std::uint64_t page = 16;  // positions, at least 1
  Room device;              // what a layer may have on the device, for all inputs together
  std::string residency = "lru";
  PredictionSettings prediction;         // of residency "predictive"
  std::optional<double> link_gigabytes;  // a second between device and host; else unpaced
  bool check = false;
  CacheSpec store;  // the policy that keeps the rows

  // Of an input of so many positions, those that are in pages at its end: `kivi` keeps recent
  // ones beside them.
  [[nodiscard]] std::uint64_t pages(std::uint64_t positions) const;
  // Pages of each input that a layer may have on the device, at most all of them: then nothing is
  // moved. Error kUsage, which names the least that works, where that are fewer than two: the page
  // that is written and one that is read.
  [[nodiscard]] std::uint64_t frames(const format::Geometry& geometry,
                                     const BatchExtent& batch) const;
};

// Error kUsage where a value is out of range.
[[nodiscard]] PagedSettings paged_settings(const CacheSpec& spec);

}  // namespace kvtool::cache
