#include "kvtool/run/recovery.h"

#include <filesystem>
#include <system_error>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/base/setting.h"
#include "kvtool/format/recover.h"
#include "kvtool/format/writer.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

// Reading, copying and verifying touch every byte once each.
constexpr std::uint64_t kPasses = 3;

void check_output(const RecoveryRequest& request) {
  const std::string& output = request.output;
  std::error_code ignored;
  if (fs::equivalent(request.input, output, ignored)) {
    throw_usage(output + " is the file to recover: choose another name");
  }
  if (!output.ends_with(format::kRecordingSuffix)) {
    throw_usage(output + ": a recording's name ends in .kvc");
  }
  if (fs::is_directory(output)) throw_usage(output + " is a folder: name a file");
  check_holds_recording(output);
  for (const std::string& path : {output, output + std::string(format::kSalvagedSuffix)}) {
    if (!request.force && fs::exists(path) && (path == output || request.salvage)) {
      throw_usage(path + " exists already: choose another name, or " + setting("force") +
                  " to replace it");
    }
  }
}

}  // namespace

format::RecoverResult run_recovery(const RecoveryRequest& request, const Services& services,
                                   Observer& observer) {
  if (!fs::exists(request.input)) throw_usage(request.input + ": there is no such file");
  check_output(request);
  std::error_code unknown_size;
  const std::uint64_t bytes = fs::file_size(request.input, unknown_size);
  format::RecoverOptions options;
  options.salvage = request.salvage;
  options.on_progress = [&](std::uint64_t done) {
    services.stop.throw_if_requested();
    observer.progress_of("Recovering", done, unknown_size ? 0 : kPasses * bytes);
  };
  format::RecoverResult result =
      format::recover_recording(request.input, find_output_target(request.output).path, options);
  observer.progress_done();
  observer.recovered({request.input, request.output, result});
  return result;
}

}  // namespace kvtool::run
