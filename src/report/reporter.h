// Reporters show the results of a command. One file for each kind of output; a command
// never formats anything itself.
//
// Order of calls: begin, then those of run::Observer, then fail if it ended with an error.
#pragma once

#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "kvtool/run/observer.h"

namespace kvtool::report {

// Raised with every incompatible change of the JSON document.
inline constexpr int kSchemaVersion = 3;

struct RunDescription {
  std::string command;  // "replay"
  std::string kvtool_version;
  std::string created_utc;
};

class Reporter : public run::Observer {
 public:
  virtual void begin(const RunDescription& run) = 0;
  void device(const run::DeviceDescription& device) override = 0;
  void model(const run::ModelDescription& model) override = 0;
  void input(const run::InputResult& input) override = 0;
  void finish(const run::Summary& summary) override = 0;
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

// Of experiments: one SVG picture, handed to `write` when they are told.
[[nodiscard]] std::unique_ptr<Reporter> make_picture_reporter(
    std::function<void(const std::string& document)> write);

// Hands every call to each of `reporters` in turn.
[[nodiscard]] std::unique_ptr<Reporter> make_reporter_list(
    std::vector<std::unique_ptr<Reporter>> reporters);

}  // namespace kvtool::report
