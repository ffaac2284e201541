#include "kvtool/run/recording_dump.h"

#include <filesystem>
#include <memory>
#include <span>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/base/setting.h"
#include "kvtool/format/reader.h"
#include "kvtool/format/safetensors.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

// Counts what goes to a pipe or a device, which have no size.
class CountedFile final : public WritableFile {
 public:
  explicit CountedFile(const fs::path& path) : file_(open_to_write_into(path)) {}
  void append(std::span<const std::byte> data) override {
    file_->append(data);
    bytes_ += data.size();
  }
  void sync() override { file_->sync(); }
  void close() override { file_->close(); }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<WritableFile> file_;
  std::uint64_t bytes_ = 0;
};

// Returns the bytes of what was written.
std::uint64_t write_to(const OutputTarget& target, const format::Recording& recording,
                       std::int64_t step) {
  if (target.can_be_replaced) {
    format::write_safetensors(recording, step, target.path);
    return fs::file_size(target.path);
  }
  CountedFile file(target.path);
  format::write_safetensors(recording, step, file);
  file.close();
  return file.bytes();
}

OutputTarget checked_target(const DumpRequest& request) {
  const std::string& target = request.target;
  if (is_recording_path(target)) throw_usage(target + " has the name of a recording");
  if (fs::is_directory(target)) throw_usage(target + " is a folder: name a file");
  OutputTarget found = find_output_target(target);
  if (!request.force && found.can_be_replaced && fs::exists(target)) {
    throw_usage(target + " exists already: choose another name, or " + setting("force") +
                " to replace it");
  }
  return found;
}

}  // namespace

DumpResult dump_recording(const DumpRequest& request) {
  const std::string& path = request.recording;
  if (!fs::exists(path)) throw_usage(path + ": there is no such file");
  const OutputTarget target = checked_target(request);
  const format::Recording recording = format::Recording::open(path);
  if (recording.num_cached_positions() == 0) {
    throw_usage(path + " holds no K/V" +
                (recording.complete() ? "" : ": " + recording.truncation()));
  }
  const auto prompt_length = static_cast<std::int64_t>(recording.header().prompt_length);
  const std::int64_t last =
      static_cast<std::int64_t>(recording.num_cached_positions()) - prompt_length - 1;
  const std::int64_t step = request.step.value_or(last);
  const std::uint64_t bytes = write_to(target, recording, step);
  return {path, step, static_cast<std::uint64_t>(prompt_length + step + 1), request.target, bytes};
}

}  // namespace kvtool::run
