#include "kvtool/run/recording_dump.h"

#include <filesystem>

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/format/reader.h"
#include "kvtool/format/safetensors.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

void check_target(const DumpRequest& request) {
  const std::string& target = request.target;
  if (is_recording_path(target)) throw_usage(target + " has the name of a recording");
  if (fs::is_directory(target)) throw_usage(target + " is a folder: name a file");
  if (!request.force && fs::exists(target)) {
    throw_usage(target + " exists already: choose another name, or " + setting("force") +
                " to replace it");
  }
}

}  // namespace

DumpResult dump_recording(const DumpRequest& request) {
  const std::string& path = request.recording;
  if (!fs::exists(path)) throw_usage(path + ": there is no such file");
  check_target(request);
  const format::Recording recording = format::Recording::open(path);
  if (recording.num_cached_positions() == 0) {
    throw_usage(path + " holds no K/V" +
                (recording.complete() ? "" : ": " + recording.truncation()));
  }
  const auto prompt_length = static_cast<std::int64_t>(recording.header().prompt_length);
  const std::int64_t last =
      static_cast<std::int64_t>(recording.num_cached_positions()) - prompt_length - 1;
  const std::int64_t step = request.step.value_or(last);
  format::write_safetensors(recording, step, request.target);
  return {path, step, static_cast<std::uint64_t>(prompt_length + step + 1), request.target,
          fs::file_size(request.target)};
}

}  // namespace kvtool::run
