// What all reports for people say of a measured cache.
#pragma once

#include <string>
#include <vector>

#include "kvtool/run/cache_bench.h"

namespace kvtool::report {

// "30 layers x ... = 46080 bytes a position".
[[nodiscard]] std::string cache_formula(const run::CacheBenchResult& result);
// Of each context whose tokens differ, and whether that is a failure; or that none do.
[[nodiscard]] std::vector<std::string> token_lines(const run::CacheBenchResult& result);
// What the figures are and how they were measured.
[[nodiscard]] std::vector<std::string> measured_lines(const run::CacheBenchResult& result);
// "12.3", "0.0123": three significant digits; "n/a" where there is none.
[[nodiscard]] std::string three_digits(double value);

}  // namespace kvtool::report
