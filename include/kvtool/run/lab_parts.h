// What a lab is asked for beside its table: which part of a cache bears few bits, and from which
// context on a policy saves time (docs/lab.md).
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/run/lab_quality.h"

namespace kvtool::run {

// Of what chooses from the same pages with the same budget the row of the least mean KL, and
// another one or the window of that budget, which may be better. Both have computed the same steps.
struct LabPair {
  std::string budget;
  std::string best;   // name of the row
  std::string other;  // likewise
  std::uint64_t steps = 0;
  double best_kl = 0.0;     // mean, in nats
  double difference = 0.0;  // other minus best
  // Half the width of its 95 % interval: by the normal distribution over means of blocks of 16
  // consecutive steps, which are less alike than steps are. Nothing of fewer than 4 blocks.
  std::optional<double> half95 = std::nullopt;
  std::optional<double> best_read = std::nullopt;  // bytes of K/V a step
  std::optional<double> other_read = std::nullopt;

  [[nodiscard]] bool is_certain() const { return half95 && std::abs(difference) > *half95; }
};

// One part of the cache in few bits, and all else as the model made it.
struct LabPart {
  std::string name;  // "K and V", "K", "V", "layer 7"
  std::optional<std::uint64_t> layer;
  std::uint32_t bits = 0;
  std::string spec;
  LabQuality quality;
};

// All steps of an input in one pass each (a parallel replay), `full` likewise: it is the noise of
// the others.
struct LabSensitivity {
  std::string mode;
  std::string base;  // "kivi:group=32,residual=32,sinks=0"
  LabQuality full;
  std::vector<LabPart> parts;  // bits descending, then K and V, K, V and the layers
};

// A line through the difference in time of single steps, policy minus full, over the positions
// that the step sees: difference = at_zero + slope * positions, by least squares over medians of
// blocks of steps.
struct LabBreakeven {
  std::string name;
  std::uint64_t shortest = 0;  // positions that were measured
  std::uint64_t longest = 0;
  double at_zero = 0.0;  // ms
  double slope = 0.0;    // ms a position
  // Of the line at the shortest and at the longest position, and half the width of its 95 %
  // interval there: negative is faster than full.
  double at_shortest = 0.0, at_shortest_half = 0.0;
  double at_longest = 0.0, at_longest_half = 0.0;
  double slope_half = 0.0;
  // Where the line crosses 0, whether measured or not.
  std::optional<double> crossing = std::nullopt;
  std::string missing = {};  // not empty: nothing was fitted, and why

  enum class Verdict : std::uint8_t {
    kPaysAlways,  // at both ends
    kPaysFrom,    // from `crossing` on, which is between the two
    kPaysUpTo,    // likewise, before it
    kPaysNever,   // at neither end
    kCannotTell,  // the interval holds 0 at both ends
  };
  [[nodiscard]] Verdict verdict() const;
};

}  // namespace kvtool::run
