// What steps read of pages, in the JSON report.
#include "json/json_values.h"

namespace kvtool::report {

Json json_page_traffic(const cache::PageTraffic& pages) {
  if (pages.demands == 0) return nullptr;
  return {{"demands", pages.demands},
          {"hits", pages.hits},
          {"late", json_known(pages.late)},
          {"misses", pages.misses()},
          {"hit_rate", json_number(pages.hit_rate())},
          {"inner_demands", pages.inner_demands},
          {"inner_hits", pages.inner_hits},
          {"inner_hit_rate", json_number(pages.inner_hit_rate())},
          {"prefetch_precision", json_number(pages.precision())},
          {"prefetch_coverage", json_number(pages.coverage())},
          {"prefetch_timeliness", json_number(pages.timeliness())},
          {"prefetch_wasted_bytes", pages.wasted_bytes},
          {"miss_wait_seconds", json_number(pages.miss_seconds)},
          {"late_wait_seconds", json_number(pages.late_seconds)},
          {"write_wait_seconds", json_number(pages.write_seconds)}};
}

}  // namespace kvtool::report
