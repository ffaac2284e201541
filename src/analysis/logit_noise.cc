#include "kvtool/analysis/logit_noise.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

#include "recorded_logits.h"

namespace kvtool::analysis {
namespace {

// Of so many values one is replaced.
constexpr std::size_t kValuesPerOutlier = 32;

double finite_or_nan(double delta) { return std::isfinite(delta) ? delta : kNaN; }

std::vector<double> differences(std::span<const float> live, std::span<const float> reference) {
  std::vector<double> deltas(reference.size());
  for (std::size_t i = 0; i < reference.size(); ++i) {
    deltas[i] = finite_or_nan(static_cast<double>(live[i]) - static_cast<double>(reference[i]));
  }
  return deltas;
}

// From what the live side has recorded itself.
std::vector<double> differences_of_common(const format::StepStats& reference,
                                          const format::StepStats& live) {
  std::unordered_map<std::int32_t, double> logits;
  for (std::size_t i = 0; i < num_recorded(live); ++i) {
    logits.emplace(live.top_ids[i], live.top_logits[i]);
  }
  std::vector<double> deltas(num_recorded(reference), kNaN);
  for (std::size_t i = 0; i < deltas.size(); ++i) {
    const auto found = logits.find(reference.top_ids[i]);
    if (found == logits.end()) continue;
    deltas[i] = finite_or_nan(found->second - static_cast<double>(reference.top_logits[i]));
  }
  return deltas;
}

}  // namespace

LogitDeltas logit_deltas(const format::StepStats& reference, const format::StepStats& live) {
  LogitDeltas deltas;
  const std::size_t count = num_recorded(reference);
  deltas.top =
      count > 0 && live.at_reference_top.size() == count
          ? differences(live.at_reference_top, std::span(reference.top_logits).first(count))
          : differences_of_common(reference, live);
  if (reference.sampled_logits.size() == live.sampled_logits.size()) {
    deltas.sample = differences(live.sampled_logits, reference.sampled_logits);
  }
  return deltas;
}

double winsorized_rms(std::span<const double> values) {
  std::vector<double> sorted;
  for (const double value : values) {
    if (std::isfinite(value)) sorted.push_back(value);
  }
  if (sorted.size() < kFewestDeltas) return kNaN;
  std::sort(sorted.begin(), sorted.end());
  const std::size_t outliers = (sorted.size() + kValuesPerOutlier - 1) / kValuesPerOutlier;
  const auto cut = static_cast<std::ptrdiff_t>(outliers);
  const double sum = std::accumulate(sorted.begin() + cut, sorted.end() - cut, 0.0);
  const double shift = sum / static_cast<double>(sorted.size() - 2 * outliers);
  for (double& value : sorted) value = std::abs(value - shift);
  std::sort(sorted.begin(), sorted.end());
  std::fill(sorted.end() - cut, sorted.end(), *(sorted.end() - cut - 1));
  const double squares = std::inner_product(sorted.begin(), sorted.end(), sorted.begin(), 0.0);
  return std::sqrt(squares / static_cast<double>(sorted.size()));
}

double LogitNoise::relative() const {
  if (top == 0.0 && deviation == 0.0) return 0.0;
  return top / deviation;
}

LogitNoise measure_noise(const format::StepStats& reference, const LogitDeltas& deltas) {
  const std::vector<double> sample(reference.sampled_logits.begin(),
                                   reference.sampled_logits.end());
  return {.top = winsorized_rms(deltas.top),
          .sample = winsorized_rms(deltas.sample),
          .deviation = winsorized_rms(sample)};
}

HeldLogits held_logits(const format::RecordingHeader& header) {
  return {.top_k = header.top_k, .sample = header.logits_sample};
}

bool show_noise(const HeldLogits& reference, const HeldLogits& live) {
  return reference.sample == live.sample && reference.sample >= kFewestDeltas &&
         std::min(reference.top_k, live.top_k) >= kFewestDeltas;
}

}  // namespace kvtool::analysis
