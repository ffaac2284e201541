// The parts of the page that stand without scripts: badge, finding, tables.
// Each returns finished HTML with every foreign text escaped.
#pragma once

#include <string>
#include <vector>

#include "flip_texts.h"
#include "kvtool/run/result.h"
#include "report/reporter.h"

namespace kvtool::report::html {

enum class Outcome { kPass, kFail, kError, kDone };
// "PASS", ... with a symbol, so that colour is not all that tells.
[[nodiscard]] std::string badge(Outcome outcome);

// A figure name and a text, or a heading and the figure below it.
[[nodiscard]] std::string tile(const std::string& heading, const std::string& value,
                               const std::string& note);

// Result, finding, key figures, gate, modes, hard flips and provenance of one model.
[[nodiscard]] std::string verdict_section(const run::Verdict& verdict, const FlipTexts& flips);

// Measured against allowed with a bar for the share of the allowance that is used.
[[nodiscard]] std::string gate_table(const std::vector<analysis::RuleResult>& rules);

[[nodiscard]] std::string selftest_section(const run::SelftestResult& result);
[[nodiscard]] std::string cache_bench_section(const run::CacheBenchResult& result);
[[nodiscard]] std::string lab_section(const run::LabResult& result);
[[nodiscard]] std::string experiment_section(const run::ExperimentResult& result);
[[nodiscard]] std::string calibration_section(const run::CalibrationResult& result);
// The command's error, shown above what it had found out before.
// Recordings that nothing was compared with.
[[nodiscard]] std::string missing_section(const std::vector<std::string>& paths);

[[nodiscard]] std::string error_section(int exit_status, const std::string& message);
// Device, versions and settings of the run.
[[nodiscard]] std::string run_section(const RunDescription& run,
                                      const run::DeviceDescription& device,
                                      const std::vector<run::ModelDescription>& models);

}  // namespace kvtool::report::html
