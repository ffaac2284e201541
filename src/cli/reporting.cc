#include "reporting.h"

#include <filesystem>
#include <ostream>
#include <utility>

#include "failure.h"
#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/run/paths.h"

namespace kvtool::cli {
namespace {

using Write = std::function<void(const std::string& document)>;
using MakeReporter = std::unique_ptr<report::Reporter> (*)(Write write);

struct ReportKind {
  const char* option;
  std::string ReportTargets::* target;
  MakeReporter make;
};

// One line for each kind of report that goes to a file.
constexpr ReportKind kReportKinds[] = {
    {"--json", &ReportTargets::json, report::make_json_reporter},
    {"--junit", &ReportTargets::junit, report::make_junit_reporter},
    {"--markdown", &ReportTargets::markdown, report::make_markdown_reporter},
    {"--html", &ReportTargets::html, report::make_html_reporter},
    {"the picture", &ReportTargets::picture, report::make_picture_reporter},
};
constexpr const char* kStdout = "-";

// Text on stdout would mix with a report that goes there under any of its names.
std::string as_target(const std::string& given) {
  for (const char* name : {"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"}) {
    if (given == name) return kStdout;
  }
  return given;
}

// Before a run of hours, not after it.
void check_target(const std::string& option, const std::filesystem::path& target) {
  const std::filesystem::path file = find_output_target(target).path;
  const std::filesystem::path folder = file.has_parent_path() ? file.parent_path() : ".";
  const std::string where = option + " " + target.string();
  if (!std::filesystem::is_directory(folder)) {
    throw_usage(where + ": the folder " + folder.string() + " does not exist");
  }
  if (std::filesystem::is_directory(target)) throw_usage(where + " is a folder: name a file");
  if (run::is_recording_path(target)) throw_usage(where + " has the name of a recording");
}

std::unique_ptr<report::Reporter> console(const Terminal& terminal,
                                          const ReportingOptions& options) {
  return report::make_console_reporter(terminal.out,
                                       {.color = terminal.out_is_terminal && !terminal.no_color,
                                        .quiet = options.quiet,
                                        .verbose = options.verbose});
}

// Two reports on stdout, or in one file, would destroy one another.
void check_distinct(const ReportTargets& targets) {
  for (const ReportKind& kind : kReportKinds) {
    for (const ReportKind* other = &kind + 1; other != std::end(kReportKinds); ++other) {
      const std::string target = as_target(targets.*kind.target);
      if (target.empty() || target != as_target(targets.*other->target)) continue;
      throw_usage(std::string(kind.option) + " and " + other->option + " both write to " +
                  (target == kStdout ? "stdout" : target));
    }
  }
}

std::unique_ptr<report::Reporter> choose_reporters(const Terminal& terminal,
                                                   const ReportingOptions& options) {
  check_distinct(options.targets);
  std::vector<std::unique_ptr<report::Reporter>> reporters;
  bool text_on_stdout = true;
  for (const ReportKind& kind : kReportKinds) {
    const std::string target = as_target(options.targets.*kind.target);
    if (target.empty()) continue;
    if (target == kStdout) {
      text_on_stdout = false;
      std::ostream& out = terminal.out;
      reporters.push_back(
          kind.make([&out](const std::string& document) { out << document << std::flush; }));
      continue;
    }
    check_target(kind.option, target);
    reporters.push_back(
        kind.make([target](const std::string& document) { write_output_file(target, document); }));
  }
  if (text_on_stdout) reporters.insert(reporters.begin(), console(terminal, options));
  return report::make_reporter_list(std::move(reporters));
}

}  // namespace

int with_observer(const Terminal& terminal, const ReportingOptions& options,
                  const std::function<int(run::Observer&)>& body, const NextCommand& next_command) {
  const std::unique_ptr<report::Reporter> reporter = choose_reporters(terminal, options);
  reporter->begin({options.command, KVTOOL_VERSION, run::utc_iso8601(terminal.services.now())});
  int status = 0;
  try {
    Audience audience(terminal, options.quiet, *reporter, next_command);
    status = body(audience);
  } catch (...) {
    const Failure failure = describe_failure(std::current_exception(), terminal.services.stop);
    reporter->fail(failure.exit_status, failure.message);
    throw;
  }
  require_written(terminal);
  return status;
}

ReportingOptions reporting_of(std::string command, const RunOptions& options) {
  return {std::move(command), options.reports, options.quiet, options.verbose};
}

}  // namespace kvtool::cli
