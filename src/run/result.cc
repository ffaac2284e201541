#include "kvtool/run/result.h"

#include <algorithm>
#include <limits>

#include "kvtool/analysis/statistics.h"

namespace kvtool::run {

double tokens_per_second(std::uint64_t steps, double decode_seconds) {
  if (steps == 0 || !(decode_seconds > 0.0)) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(steps) / decode_seconds;
}

bool Summary::failed() const {
  return !missing.empty() ||
         std::any_of(verdicts.begin(), verdicts.end(),
                     [](const Verdict& verdict) { return !verdict.gate.passed; });
}

bool InfoResult::readable() const {
  return std::all_of(recordings.begin(), recordings.end(),
                     [](const RecordingInfo& info) { return info.error.empty(); });
}

bool SelftestResult::passed() const {
  const auto injected = [](const FaultResult& fault) { return fault.skipped.empty(); };
  return control_passed && std::any_of(faults.begin(), faults.end(), injected) &&
         std::all_of(faults.begin(), faults.end(),
                     [&](const FaultResult& fault) { return !injected(fault) || fault.caught; });
}

double BenchFigure::median() const {
  std::vector<double> sorted = values;
  return analysis::quantile(sorted, 0.5).value_or(std::numeric_limits<double>::quiet_NaN());
}

double BenchFigure::least() const { return *std::min_element(values.begin(), values.end()); }

double BenchFigure::most() const { return *std::max_element(values.begin(), values.end()); }

}  // namespace kvtool::run
