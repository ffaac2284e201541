// How good a replay under a policy is.
#pragma once

#include <cstdint>
#include <optional>

namespace kvtool::run {

// Figures of the steps of one mode, all inputs pooled (docs/metrics.md). Empty: not measured.
struct LabQuality {
  std::uint64_t compared = 0;
  std::uint64_t matches = 0;
  std::uint64_t ties = 0;
  std::uint64_t noise_flips = 0;
  std::uint64_t near_ties = 0;
  std::uint64_t hard_flips = 0;
  std::uint64_t nonfinite = 0;
  // matches / compared, and its two-sided 95 % Clopper-Pearson interval.
  std::optional<double> agreement, agreement_low, agreement_high;
  // Of the measured noise alone.
  std::optional<double> expected_flips, expected_deviation;
  // In nats: the estimate where recordings hold a sample of logits, else the lower bound.
  bool kl_is_estimate = false;
  std::optional<double> kl_mean, kl_error, kl_median, kl_p99;
  std::optional<double> same_top, rms_delta_p;
  std::optional<double> key_l2, value_l2;
  // Of free replays: tokens before the first that differs, lower median and least over inputs.
  std::optional<double> agreed_median, agreed_min;

  [[nodiscard]] std::uint64_t flips() const { return compared - matches; }
  [[nodiscard]] std::uint64_t explained() const { return ties + noise_flips + near_ties; }
};

}  // namespace kvtool::run
