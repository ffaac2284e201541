#include "reporting.h"

#include <filesystem>
#include <ostream>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/cli/app.h"

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
};
constexpr const char* kStdout = "-";

// Before a run of hours, not after it.
void check_target(const std::string& option, const std::filesystem::path& target) {
  const std::filesystem::path folder = target.has_parent_path() ? target.parent_path() : ".";
  const std::string where = option + " " + target.string();
  if (!std::filesystem::is_directory(folder)) {
    throw_usage(where + ": the folder " + folder.string() + " does not exist");
  }
  if (std::filesystem::is_directory(target)) throw_usage(where + " is a folder: name a file");
  if (is_recording_path(target)) throw_usage(where + " has the name of a recording");
}

std::unique_ptr<report::Reporter> console(Services& services, const ReportingOptions& options) {
  return report::make_console_reporter(services.out,
                                       {.color = services.out_is_terminal && !services.no_color,
                                        .quiet = options.quiet,
                                        .verbose = options.verbose});
}

// Two reports on stdout, or in one file, would destroy one another.
void check_distinct(const ReportTargets& targets) {
  for (const ReportKind& kind : kReportKinds) {
    for (const ReportKind* other = &kind + 1; other != std::end(kReportKinds); ++other) {
      const std::string& target = targets.*kind.target;
      if (target.empty() || target != targets.*other->target) continue;
      throw_usage(std::string(kind.option) + " and " + other->option + " both write to " +
                  (target == kStdout ? "stdout" : target));
    }
  }
}

std::unique_ptr<report::Reporter> choose_reporters(Services& services,
                                                   const ReportingOptions& options) {
  check_distinct(options.targets);
  std::vector<std::unique_ptr<report::Reporter>> reporters;
  bool text_on_stdout = true;
  for (const ReportKind& kind : kReportKinds) {
    const std::string& target = options.targets.*kind.target;
    if (target.empty()) continue;
    if (target == kStdout) {
      text_on_stdout = false;
      std::ostream& out = services.out;
      reporters.push_back(
          kind.make([&out](const std::string& document) { out << document << std::flush; }));
      continue;
    }
    check_target(kind.option, target);
    reporters.push_back(kind.make(
        [target](const std::string& document) { write_file_atomically(target, document); }));
  }
  if (text_on_stdout) reporters.insert(reporters.begin(), console(services, options));
  return report::make_reporter_list(std::move(reporters));
}

}  // namespace

int with_reporter(Services& services, const ReportingOptions& options,
                  const std::function<int(report::Reporter&)>& body) {
  const std::unique_ptr<report::Reporter> reporter = choose_reporters(services, options);
  reporter->begin({options.command, KVTOOL_VERSION, utc_iso8601(services.now())});
  int status = 0;
  try {
    status = body(*reporter);
  } catch (...) {
    const Failure failure = describe_failure(std::current_exception());
    reporter->fail(failure.exit_status, failure.message);
    throw;
  }
  services.out.flush();
  if (!services.out) throw_environment("standard output could not be written");
  return status;
}

}  // namespace kvtool::cli
