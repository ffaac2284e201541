// What a run takes from outside, so that a test or a library's caller can give it another
// engine, clock, disk or encoder.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "kvtool/base/file.h"
#include "kvtool/base/stop.h"
#include "kvtool/base/subprocess.h"
#include "kvtool/engine/api.h"
#include "kvtool/run/model_file.h"
#include "kvtool/run/paths.h"
#include "kvtool/run/prompt_encoder.h"

namespace kvtool::run {

// `cpu_isa` is "auto" or one of engine::cpu_isas(); it must be limited before torch is loaded.
using OpenEngine = std::function<std::unique_ptr<engine::Engine>(
    const std::string& cpu_isa, const engine::EngineOptions& options)>;

// Starts a program that does do_worker_task() with this text on its standard input and writes
// what that returns to its standard output, and waits for its end.
using WorkerProcess = std::function<ProcessResult(std::string_view task)>;

struct Services {
  OpenEngine open_engine;
  EncoderProcess encoder;
  std::function<WallTime()> now;
  // Where recordings are written, and references are read.
  FileSystem& files = posix_file_system();
  // Asked at every step and recording; a stop unwinds the run with Interrupted.
  StopToken stop = {};
  // Of whoever has such a program; only run_calibration() needs it.
  WorkerProcess worker = {};
  // Of whoever has it; only run_experiments() needs it, for checkpoints.
  ExporterProcess exporter = {};
};

// The engine library (or, in a build without it, the error that says so), the Python helper,
// the system's clock and disk; `stop` is the caller's.
[[nodiscard]] Services system_services(StopToken stop);

}  // namespace kvtool::run
