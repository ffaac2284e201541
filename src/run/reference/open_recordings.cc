#include "open_recordings.h"

#include "kvtool/base/limited_files.h"

namespace kvtool::run {

OpenRecordings::OpenRecordings(FileSystem& files)
    : files_(limit_open_files(files, kMaxOpenFiles)) {}

std::shared_ptr<const format::Recording> OpenRecordings::open(const std::filesystem::path& path) {
  const auto known = opened_.find(path);
  if (known != opened_.end()) return known->second;
  auto recording = std::make_shared<const format::Recording>(
      format::Recording::open(path, {.file_system = files_.get()}));
  recording->release_buffers();
  return opened_.emplace(path, std::move(recording)).first->second;
}

}  // namespace kvtool::run
