// A file system that passes every call on to another one: derive from it to change a few.
#pragma once

#include <filesystem>
#include <memory>

#include "kvtool/base/file.h"

namespace kvtool {

class ForwardingFileSystem : public FileSystem {
 public:
  std::unique_ptr<WritableFile> create(const std::filesystem::path& path) override {
    return files_.create(path);
  }
  std::unique_ptr<WritableFile> take_over(const std::filesystem::path& path) override {
    return files_.take_over(path);
  }
  std::unique_ptr<RandomAccessFile> open(const std::filesystem::path& path) override {
    return files_.open(path);
  }
  void rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    files_.rename(from, to);
  }
  void remove(const std::filesystem::path& path) override { files_.remove(path); }
  void create_directories(const std::filesystem::path& path) override {
    files_.create_directories(path);
  }
  void sync_directory(const std::filesystem::path& path) override { files_.sync_directory(path); }
  void sync_parents(const std::filesystem::path& folder) override { files_.sync_parents(folder); }
  std::unique_ptr<FolderLock> lock_folder(const std::filesystem::path& folder) override {
    return files_.lock_folder(folder);
  }

 protected:
  // `files` must outlive it.
  explicit ForwardingFileSystem(FileSystem& files) : files_(files) {}

  FileSystem& files_;
};

}  // namespace kvtool
