// A sink that keeps the statistics of each token and no K/V.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvtool/format/row.h"

namespace kvtool::run {

class KeptStats : public format::RowSink {
 public:
  [[nodiscard]] Needs needs() const override {
    return {.prefill_kv = false, .step_kv = false, .final_kv = false};
  }
  void on_prefill_layer(std::uint32_t /*layer*/, std::span<const std::byte> /*key*/,
                        std::span<const std::byte> /*value*/) override {}
  void on_prefill_end(const format::StepStats& stats) override { stats_.push_back(stats); }
  void on_step(std::uint64_t /*step*/, const format::StepStats& stats,
               std::span<const std::byte> /*delta*/) override {
    stats_.push_back(stats);
  }
  void on_final_layer(std::uint32_t /*layer*/, std::span<const std::byte> /*key*/,
                      std::span<const std::byte> /*value*/) override {}
  void on_end(const format::RowEnd& /*end*/) override {}

  // Once the run has returned.
  [[nodiscard]] const std::vector<format::StepStats>& stats() const { return stats_; }

 private:
  std::vector<format::StepStats> stats_;
};

}  // namespace kvtool::run
