// Runs the replays of a calibration, each in a process of its own: an
// instruction set can be limited only before torch is loaded.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kvtool/base/subprocess.h"
#include "kvtool/run/calibration.h"

namespace kvtool::run {

// Runs kvtool with these arguments to its end.
using RunKvtool = std::function<ProcessResult(const std::vector<std::string>& arguments)>;

struct CalibrationRequest {
  // Of a `save` that makes the reference, without --out; unused when `from` is set.
  std::vector<std::string> save_arguments;
  // Of every replay, without --from and what a variant sets.
  std::vector<std::string> replay_arguments;
  std::string from;  // empty: record a reference first
  std::string cpu_isa = "auto";
  int threads = 0;
  int runs = kMinCalibrationRuns;
  double safety = 2.0;
  std::string cpuinfo;            // contents of /proc/cpuinfo
  std::filesystem::path scratch;  // an empty folder
  std::string kvtool_version;
  std::string created_utc;
};

struct Calibration {
  CalibrationResult result;  // without target
  DeviceDescription device;
  ModelDescription model;
  nlohmann::json gate_file;
};

// `progress` is told what begins. The gate has been judged over every run it was
// made of. Errors of a child are thrown with its status and message.
[[nodiscard]] Calibration run_calibration(
    const CalibrationRequest& request, const RunKvtool& run,
    const std::function<void(const std::string& what)>& progress);

}  // namespace kvtool::run
