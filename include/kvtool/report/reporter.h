// Reporters show the results of a command. One interface, one file for each
// kind of output; a command never formats anything itself.
//
// Order of calls: begin, then device, model and input as a run goes on, then
// finish or fail; the results that stand for themselves (info, exported and what
// follows it below) come between begin and finish.
#pragma once

#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "kvtool/report/result.h"

namespace kvtool::report {

class Reporter {
 public:
  virtual ~Reporter() = default;

  virtual void begin(const RunDescription& run) = 0;
  virtual void device(const DeviceDescription& device) = 0;
  virtual void model(const ModelDescription& model) = 0;
  virtual void input(const InputResult& input) = 0;
  virtual void info(const InfoResult& /*info*/) {}
  virtual void exported(const DumpResult& /*dump*/) {}
  virtual void packing(const PackingResult& /*result*/) {}
  virtual void selftest(const SelftestResult& /*result*/) {}
  virtual void calibration(const CalibrationResult& /*result*/) {}
  virtual void bench(const BenchResult& /*result*/) {}
  // Of each file, then of all.
  virtual void verified(const format::FileVerdict& /*verdict*/) {}
  virtual void verified_all(const VerifyTotals& /*totals*/) {}
  virtual void recovered(const RecoveryResult& /*recovery*/) {}
  virtual void finish(const Summary& summary) = 0;
  // The command ended with an error; what was reported so far stays valid.
  virtual void fail(int exit_status, const std::string& message) = 0;
};

struct ConsoleOptions {
  bool color = false;
  bool quiet = false;    // the summary only
  bool verbose = false;  // whole prompts
};

// Readable text on `out`, which must outlive the reporter. Errors are not
// shown: they go to the log.
[[nodiscard]] std::unique_ptr<Reporter> make_console_reporter(std::ostream& out,
                                                              ConsoleOptions options);

// One JSON document (docs: schema_version), handed whole to `write` by finish()
// or fail(). Never holds NaN or Inf: those are null.
[[nodiscard]] std::unique_ptr<Reporter> make_json_reporter(
    std::function<void(const std::string& document)> write);

// One JUnit XML document: a test suite of inputs and one of gate rules for each
// model (or of faults, for a selftest), as CI systems read it.
[[nodiscard]] std::unique_ptr<Reporter> make_junit_reporter(
    std::function<void(const std::string& document)> write);

// GitHub-flavoured Markdown that fits a CI job summary (below 1 MiB for any run).
[[nodiscard]] std::unique_ptr<Reporter> make_markdown_reporter(
    std::function<void(const std::string& document)> write);

// One self-contained HTML file: no request leaves it.
[[nodiscard]] std::unique_ptr<Reporter> make_html_reporter(
    std::function<void(const std::string& document)> write);

// Hands every call to each of `reporters` in turn.
[[nodiscard]] std::unique_ptr<Reporter> make_reporter_list(
    std::vector<std::unique_ptr<Reporter>> reporters);

}  // namespace kvtool::report
