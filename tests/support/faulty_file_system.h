// The operating system's files, of which one call fails as a disk makes it fail.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"

namespace kvtool {

enum class DiskFault { kFull, kInputOutput, kFileTooLarge };

inline const char* disk_fault_text(DiskFault fault) {
  switch (fault) {
    case DiskFault::kFull: return "disk full (injected)";
    case DiskFault::kInputOutput: return "input/output error (injected)";
    case DiskFault::kFileTooLarge: return "file size limit reached (injected)";
  }
  return "";
}

class FaultyFileSystem final : public FileSystem {
 public:
  // The call with this number, counted from 0 over everything that changes the
  // disk, fails; -1 for none. A failing append keeps half of its bytes: a short
  // write, and the error of what was left.
  void fail_call(int call, DiskFault fault) {
    fail_at_ = call;
    fault_ = fault;
    calls_ = 0;
  }
  [[nodiscard]] bool fired() const { return fail_at_ >= 0 && calls_ > fail_at_; }
  [[nodiscard]] int calls() const { return calls_; }
  [[nodiscard]] const std::string& last_call() const { return last_call_; }

  std::unique_ptr<WritableFile> create(const std::filesystem::path& path) override {
    count("create", path);
    return std::make_unique<File>(*this, path, files_.create(path));
  }
  std::unique_ptr<WritableFile> take_over(const std::filesystem::path& path) override {
    count("take_over", path);
    return std::make_unique<File>(*this, path, files_.take_over(path));
  }
  std::unique_ptr<RandomAccessFile> open(const std::filesystem::path& path) override {
    return files_.open(path);
  }
  void rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    count("rename", from);
    files_.rename(from, to);
  }
  void remove(const std::filesystem::path& path) override {
    count("remove", path);
    files_.remove(path);
  }
  void create_directories(const std::filesystem::path& path) override {
    count("create_directories", path);
    files_.create_directories(path);
  }
  void sync_directory(const std::filesystem::path& path) override { count("sync_directory", path); }
  void sync_parents(const std::filesystem::path& folder) override { count("sync_parents", folder); }
  std::unique_ptr<FolderLock> lock_folder(const std::filesystem::path& folder) override {
    count("lock_folder", folder);
    return files_.lock_folder(folder);
  }

 private:
  class File final : public WritableFile {
   public:
    File(FaultyFileSystem& owner, std::filesystem::path path, std::unique_ptr<WritableFile> file)
        : owner_(owner), path_(std::move(path)), file_(std::move(file)) {}
    void append(std::span<const std::byte> data) override {
      if (owner_.fails("append")) {
        file_->append(data.subspan(0, data.size() / 2));
        owner_.fail(path_);
      }
      file_->append(data);
    }
    void sync() override { owner_.count("sync", path_); }
    // The descriptor is gone whatever close() reports.
    void close() override {
      file_->close();
      owner_.count("close", path_);
    }

   private:
    FaultyFileSystem& owner_;
    std::filesystem::path path_;
    std::unique_ptr<WritableFile> file_;
  };

  bool fails(const char* call) {
    const bool failing = calls_++ == fail_at_;
    if (failing) last_call_ = call;
    return failing;
  }
  [[noreturn]] void fail(const std::filesystem::path& path) const {
    throw_environment(path.string() + ": " + disk_fault_text(fault_));
  }
  void count(const char* call, const std::filesystem::path& path) {
    if (fails(call)) fail(path);
  }

  FileSystem& files_ = posix_file_system();
  int calls_ = 0;
  int fail_at_ = -1;
  DiskFault fault_ = DiskFault::kFull;
  std::string last_call_;
};

}  // namespace kvtool
