// How far two sides' logits of one token are apart at the same ids, and the noise that this
// shows. docs/metrics.md, "Logit noise".
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "kvtool/format/recording.h"

namespace kvtool::analysis {

// Fewer differences than these show no noise.
inline constexpr std::size_t kFewestDeltas = 8;

// Live logit minus the reference's. NaN where a side does not know the logit, or it is not finite.
struct LogitDeltas {
  std::vector<double> top;     // at the reference's top_ids, in their order
  std::vector<double> sample;  // at the sample's ids; empty unless both sides have the same sample
};
// A live side that has gathered its logits at the reference's ids (a replay) knows all of them, a
// recording those of its own top-k.
[[nodiscard]] LogitDeltas logit_deltas(const format::StepStats& reference,
                                       const format::StepStats& live);

// Spread of the finite values about their common shift: the mean without the highest and the
// lowest of every 32 (at least one each), then the root mean square of what is left of all, in
// which the largest of every 32 (at least one) count as the next one. So one outlier moves it no
// further than the second largest value. NaN for fewer than kFewestDeltas.
[[nodiscard]] double winsorized_rms(std::span<const double> values);

struct LogitNoise {
  double top = std::numeric_limits<double>::quiet_NaN();     // of the best logits
  double sample = std::numeric_limits<double>::quiet_NaN();  // of the sample's
  // Spread of the recorded sample, by the same rule: what `top` is relative to.
  double deviation = std::numeric_limits<double>::quiet_NaN();

  // top / deviation; 0 when both are 0. NaN when either was not measured.
  [[nodiscard]] double relative() const;
};
[[nodiscard]] LogitNoise measure_noise(const format::StepStats& reference,
                                       const LogitDeltas& deltas);

// How many logits one side knows of each token. A replay knows as many as its reference holds: it
// gathers them at the same ids.
struct HeldLogits {
  std::uint32_t top_k = 0;
  std::uint32_t sample = 0;
};
[[nodiscard]] HeldLogits held_logits(const format::RecordingHeader& header);

// Whether a pair of sides shows noise: both hold the same sample (samples of different sizes are of
// different ids), and of sample and top-k at least kFewestDeltas each. All others are judged by ulp
// alone, verdicts and gate rules alike.
[[nodiscard]] bool show_noise(const HeldLogits& reference, const HeldLogits& live);

}  // namespace kvtool::analysis
