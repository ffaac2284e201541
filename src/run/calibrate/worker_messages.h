// What calibrate and the processes that it starts tell one another: a task on a worker's
// standard input, its answer on standard output. Both are JSON of one version, written and
// read by the same program; what is unknown, missing or of another type is refused.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kvtool/analysis/summary.h"
#include "kvtool/base/error.h"
#include "kvtool/run/request.h"
#include "kvtool/run/result.h"

namespace kvtool::run {

inline constexpr int kWorkerVersion = 3;

enum class WorkerAction {
  kRecord,   // request.prompts, below request.base_dir
  kMeasure,  // how far the device is from request.from in request.replay_modes
};

struct WorkerTask {
  WorkerAction action = WorkerAction::kMeasure;
  // All but its gate, which does not travel: what passes is not a worker's question.
  Request request;
  // What a worker classes mismatches by. Empty: no known gap is a hard flip.
  std::optional<analysis::FlipBounds> flip_bounds = std::nullopt;
};

// One replay of all recordings.
struct WorkerMeasurement {
  analysis::Figures figures;  // infinity where one is not finite
  double largest_gap_ulps = 0.0;
  double largest_gap_noise = 0.0;
  std::uint64_t most_rows = 0;
  std::uint64_t groups = 0;  // as in Judgement
  std::string cache;         // spec of the one that ran
  DeviceDescription device;
  ModelDescription model;
};

struct WorkerError {
  ErrorCode code = ErrorCode::kEnvironment;
  std::string message;  // as Error::message(): settings are marked
};

// Neither: what was asked for is recorded.
struct WorkerAnswer {
  std::optional<WorkerError> error;
  std::optional<WorkerMeasurement> measurement;
};

// One line each. Error kUsage for a string of the task that is not valid UTF-8.
[[nodiscard]] std::string write_task(const WorkerTask& task);
[[nodiscard]] std::string write_answer(const WorkerAnswer& answer);

// Error kUsage that says what stands where.
[[nodiscard]] WorkerTask parse_task(std::string_view text);
[[nodiscard]] WorkerAnswer parse_answer(std::string_view text);

}  // namespace kvtool::run
