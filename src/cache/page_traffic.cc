#include "kvtool/cache/page_traffic.h"

namespace kvtool::cache {
namespace {

std::optional<double> share(std::uint64_t part, std::uint64_t whole) {
  if (whole == 0) return std::nullopt;
  return static_cast<double>(part) / static_cast<double>(whole);
}

// Of what nobody measured there is no sum.
template <typename Number>
void add(std::optional<Number>& sum, const std::optional<Number>& other) {
  if (sum && other) {
    *sum += *other;
  } else {
    sum.reset();
  }
}

}  // namespace

std::optional<double> PageTraffic::hit_rate() const { return share(hits, demands); }

std::optional<double> PageTraffic::inner_hit_rate() const {
  return share(inner_hits, inner_demands);
}

std::optional<double> PageTraffic::precision() const { return share(prefetch_hits, prefetched); }

std::optional<double> PageTraffic::coverage() const {
  if (prefetched == 0) return std::nullopt;
  return share(prefetch_hits, prefetch_hits + misses());
}

std::optional<double> PageTraffic::timeliness() const {
  if (!late) return std::nullopt;
  return share(prefetch_hits - *late, prefetch_hits);
}

std::optional<double> PageTraffic::waited_seconds() const {
  if (!miss_seconds || !late_seconds || !write_seconds) return std::nullopt;
  return *miss_seconds + *late_seconds + *write_seconds;
}

PageTraffic& PageTraffic::operator+=(const PageTraffic& other) {
  demands += other.demands;
  hits += other.hits;
  inner_demands += other.inner_demands;
  inner_hits += other.inner_hits;
  add(late, other.late);
  prefetched += other.prefetched;
  prefetch_hits += other.prefetch_hits;
  wasted_bytes += other.wasted_bytes;
  add(miss_seconds, other.miss_seconds);
  add(late_seconds, other.late_seconds);
  add(write_seconds, other.write_seconds);
  return *this;
}

}  // namespace kvtool::cache
