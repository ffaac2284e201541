#include "reporting.h"

#include <filesystem>
#include <ostream>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/cli/app.h"

namespace kvtool::cli {
namespace {

// Before a run of hours, not after it.
void check_json_target(const std::filesystem::path& target) {
  const std::filesystem::path folder = target.has_parent_path() ? target.parent_path() : ".";
  if (!std::filesystem::is_directory(folder)) {
    throw_usage("--json " + target.string() + ": the folder " + folder.string() +
                " does not exist");
  }
  if (std::filesystem::is_directory(target)) {
    throw_usage("--json " + target.string() + " is a folder: name a file");
  }
  if (is_recording_path(target)) {
    throw_usage("--json " + target.string() + " has the name of a recording");
  }
}

std::unique_ptr<report::Reporter> choose_reporters(Services& services,
                                                   const ReportingOptions& options) {
  std::vector<std::unique_ptr<report::Reporter>> reporters;
  if (options.json_target == "-") {
    std::ostream& out = services.out;
    reporters.push_back(report::make_json_reporter(
        [&out](const std::string& document) { out << document << std::flush; }));
    return report::make_reporter_list(std::move(reporters));
  }
  reporters.push_back(report::make_console_reporter(
      services.out, {.color = services.out_is_terminal && !services.no_color,
                     .quiet = options.quiet,
                     .verbose = options.verbose}));
  if (!options.json_target.empty()) {
    check_json_target(options.json_target);
    reporters.push_back(
        report::make_json_reporter([target = options.json_target](const std::string& document) {
          write_file_atomically(target, document);
        }));
  }
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
