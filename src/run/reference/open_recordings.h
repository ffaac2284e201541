// The recordings that a command works with, each opened once.
#pragma once

#include <filesystem>
#include <map>
#include <memory>

#include "kvtool/base/file.h"
#include "kvtool/format/reader.h"

namespace kvtool::run {

// Opening reads META, tells whether the file is whole and walks it where it is not. What is
// known then stays in memory, some kilobytes a recording; of the files themselves a bounded
// number stays open.
class OpenRecordings {
 public:
  // Files that are open at a time: a quarter of what a process may usually have.
  static constexpr std::size_t kMaxOpenFiles = 256;

  // `files` must outlive this and every recording.
  explicit OpenRecordings(FileSystem& files);

  // Errors as Recording::open(), again at every call.
  [[nodiscard]] std::shared_ptr<const format::Recording> open(const std::filesystem::path& path);

 private:
  std::unique_ptr<FileSystem> files_;
  std::map<std::filesystem::path, std::shared_ptr<const format::Recording>> opened_;
};

}  // namespace kvtool::run
