// What the steps under a paged cache read: how often it was there, what fetching ahead was worth,
// and what waiting took.
#pragma once

#include <cstdint>
#include <optional>

namespace kvtool::cache {

// Counted over steps, layers and inputs. A demand is a page that the query of a step reads in a
// layer, once, however many heads read it. It is one of
//
//   hit    the page was on the device when the step came to the layer
//   late   it had been asked for ahead, and its copy was still under way
//   miss   neither: the step fetched it
//
// and with what came ahead for the step, where used is what the step then read of it, late or not:
//
//   hit rate     hits / demands
//   precision    used / fetched ahead             (accuracy in Srinath et al., Feedback Directed
//   coverage     used / (used + misses)           Prefetching, HPCA 2007, where 1 - timeliness
//   timeliness   (used - late) / used             is lateness)
//
// What came ahead and was not used, or had no step any more, is what mispredictions cost. A number
// that nobody measured is empty: a device's stream waits for a copy without the host, so there late
// ones are among the hits, and nothing is known of seconds.
struct PageTraffic {
  std::uint64_t demands = 0;
  std::uint64_t hits = 0;
  // Of these, without the pages that a step reads in any case: the first `sinks` and the last
  // `recent` of the input, and where no policy chooses the last one.
  std::uint64_t inner_demands = 0;
  std::uint64_t inner_hits = 0;
  std::optional<std::uint64_t> late = 0;

  std::uint64_t prefetched = 0;     // pages that came back ahead of a step that might read them
  std::uint64_t prefetch_hits = 0;  // of them, those that the step did read
  std::uint64_t wasted_bytes = 0;   // of the others

  // Of a step: until pages that it lacked were there, until late ones were, and until pages that
  // became whole were in host memory.
  std::optional<double> miss_seconds = 0.0;
  std::optional<double> late_seconds = 0.0;
  std::optional<double> write_seconds = 0.0;

  [[nodiscard]] std::uint64_t misses() const { return demands - hits - late.value_or(0); }
  // Nothing where there was nothing to count.
  [[nodiscard]] std::optional<double> hit_rate() const;
  [[nodiscard]] std::optional<double> inner_hit_rate() const;
  [[nodiscard]] std::optional<double> precision() const;
  [[nodiscard]] std::optional<double> coverage() const;
  [[nodiscard]] std::optional<double> timeliness() const;
  // The sum of the three.
  [[nodiscard]] std::optional<double> waited_seconds() const;

  // Of caches that ran one after the other or side by side.
  PageTraffic& operator+=(const PageTraffic& other);
  friend bool operator==(const PageTraffic&, const PageTraffic&) = default;
};

}  // namespace kvtool::cache
