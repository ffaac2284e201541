// Measures how far replays of one recording on one machine are apart, and turns
// that noise into a gate. No process is started here: see calibration_runs.h.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/run/result.h"

namespace kvtool::run {

inline constexpr int kMinCalibrationRuns = 5;

// One way to replay the reference. "auto", 0 and false: as it was recorded.
struct CalibrationVariant {
  std::string cpu_isa = "auto";
  int threads = 0;
  bool single_inputs = false;  // --batch 1
  int repeat = 1;              // 2: the second time with the same settings

  // "avx2, 1 thread, one input at a time".
  [[nodiscard]] std::string name() const;
};

// What there is to vary.
struct CalibrationMachine {
  bool cpu = true;                      // the device is the CPU
  int threads = 0;                      // of the replay as recorded; 0: unknown
  bool batched = false;                 // some batch has more than one row
  std::vector<std::string> isa_limits;  // weaker than what runs as recorded, strongest first
};

// Instruction sets below `cpu_isa` ("auto": the CPU's best) that a CPU with
// these /proc/cpuinfo contents has, in the words of --cpu-isa. Empty when the
// CPU is no x86.
[[nodiscard]] std::vector<std::string> weaker_instruction_sets(std::string_view cpuinfo,
                                                               std::string_view cpu_isa);

// The first is the replay as recorded; settings are then varied one by one and
// together. What remains of `count` repeats the variants from the first on.
[[nodiscard]] std::vector<CalibrationVariant> plan_calibration(const CalibrationMachine& machine,
                                                               int count);
// What could not be varied, in words.
[[nodiscard]] std::vector<std::string> calibration_notes(const CalibrationMachine& machine);

// What one replay has found.
struct CalibrationOutcome {
  CalibrationRun run;
  double largest_gap_ulps = 0.0;   // of the tokens that differ
  double largest_gap_noise = 0.0;  // likewise, in standard deviations of the measured noise

  // The recordings hold what shows the noise of logits.
  [[nodiscard]] bool measures_noise() const;
};

struct CalibratedGate {
  analysis::FlipBounds flip_bounds;
  bool measures_noise = false;  // of all runs
  std::vector<CalibratedRule> rules;
  std::vector<std::string> notes;
};

// For every figure that all runs have measured: its worst distance from the
// ideal times `safety`, rounded outward to three digits, but no less than the
// least allowance of its kind (docs/gates.md). Error kEnvironment when a run has
// NaN, Inf or a flip that no tolerance explains: that is no noise.
[[nodiscard]] CalibratedGate calibrate_gate(const std::vector<CalibrationOutcome>& outcomes,
                                            double safety);

// A gate file (docs/gates.md).
[[nodiscard]] nlohmann::json gate_document(const std::string& name, const std::string& description,
                                           const CalibratedGate& gate, nlohmann::json evidence);

}  // namespace kvtool::run
