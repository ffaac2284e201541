// Who is told what a run does and finds out. Reporters show the results, a terminal also
// the log and how far the run is; a test or a library's caller takes what it wants.
//
// Order of calls: device, model and input as a run goes on, then finish; the results that
// stand for themselves (info, exported and what follows it) come before finish. All calls
// come from the thread that runs, one at a time, unless a method says otherwise.
#pragma once

#include <cstdint>
#include <string>

#include "kvtool/run/result.h"

namespace kvtool::run {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

struct CacheBenchResult;
struct ExperimentResult;
struct LabResult;

class Observer {
 public:
  virtual ~Observer() = default;

  // What a person should know beside the results. May hold marked settings
  // (base/setting.h). Any thread of the run may call it, one at a time.
  virtual void log(LogLevel /*level*/, const std::string& /*message*/) {}
  // "batch 1/2, step 3/10": replaces what was said last. As often as a run likes.
  virtual void progress(const std::string& /*what*/) {}
  // The same where the end is known: `done` of `total`, in any unit.
  virtual void progress_of(const std::string& /*what*/, std::uint64_t /*done*/,
                           std::uint64_t /*total*/) {}
  // Nothing is under way: the next result, or the end, follows.
  virtual void progress_done() {}

  virtual void device(const DeviceDescription& /*device*/) {}
  virtual void model(const ModelDescription& /*model*/) {}
  virtual void input(const InputResult& /*input*/) {}
  virtual void info(const InfoResult& /*info*/) {}
  virtual void exported(const DumpResult& /*dump*/) {}
  virtual void packing(const PackingResult& /*result*/) {}
  virtual void selftest(const SelftestResult& /*result*/) {}
  virtual void calibration(const CalibrationResult& /*result*/) {}
  virtual void bench(const BenchResult& /*result*/) {}
  virtual void cache_bench(const CacheBenchResult& /*result*/) {}  // kvtool/run/cache_bench.h
  virtual void lab(const LabResult& /*result*/) {}                 // kvtool/run/lab.h
  virtual void experiments(const ExperimentResult& /*result*/) {}  // kvtool/run/experiment.h
  // Of each file, then of all.
  virtual void verified(const format::FileVerdict& /*verdict*/) {}
  virtual void verified_all(const VerifyTotals& /*totals*/) {}
  virtual void recovered(const RecoveryResult& /*recovery*/) {}
  virtual void finish(const Summary& /*summary*/) {}
};

}  // namespace kvtool::run
