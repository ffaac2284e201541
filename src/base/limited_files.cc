#include "kvtool/base/limited_files.h"

#include <algorithm>
#include <list>
#include <mutex>
#include <utility>

#include "kvtool/base/forwarding_files.h"

namespace kvtool {
namespace {

class LimitedFile;

// Those that are open, the last used first.
class OpenFiles {
 public:
  OpenFiles(FileSystem& files, std::size_t limit)
      : files_(files), limit_(std::max<std::size_t>(limit, 1)) {}

  // Opens it where it is not open; a file that is closed meanwhile lives until its user is done.
  std::shared_ptr<RandomAccessFile> use(const LimitedFile& file);
  void forget(const LimitedFile& file);

 private:
  struct Entry {
    const LimitedFile* owner;
    std::shared_ptr<RandomAccessFile> file;
  };
  std::list<Entry>::iterator find(const LimitedFile& file) {
    return std::find_if(open_.begin(), open_.end(),
                        [&](const Entry& entry) { return entry.owner == &file; });
  }

  FileSystem& files_;
  std::size_t limit_;
  std::mutex mutex_;
  std::list<Entry> open_;
};

class LimitedFile final : public RandomAccessFile {
 public:
  LimitedFile(std::shared_ptr<OpenFiles> open, std::filesystem::path path)
      : open_(std::move(open)), path_(std::move(path)), size_(open_->use(*this)->size()) {}
  ~LimitedFile() override { open_->forget(*this); }
  LimitedFile(const LimitedFile&) = delete;
  LimitedFile& operator=(const LimitedFile&) = delete;

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] const std::filesystem::path& path() const override { return path_; }
  [[nodiscard]] std::size_t read(std::uint64_t offset, std::span<std::byte> target) const override {
    return open_->use(*this)->read(offset, target);
  }

 private:
  std::shared_ptr<OpenFiles> open_;
  std::filesystem::path path_;
  std::uint64_t size_;  // when it was opened first
};

std::shared_ptr<RandomAccessFile> OpenFiles::use(const LimitedFile& file) {
  const std::lock_guard lock(mutex_);
  if (const auto found = find(file); found != open_.end()) {
    open_.splice(open_.begin(), open_, found);
    return open_.front().file;
  }
  open_.push_front({&file, files_.open(file.path())});
  if (open_.size() > limit_) open_.pop_back();
  return open_.front().file;
}

void OpenFiles::forget(const LimitedFile& file) {
  const std::lock_guard lock(mutex_);
  if (const auto found = find(file); found != open_.end()) open_.erase(found);
}

class LimitedFileSystem final : public ForwardingFileSystem {
 public:
  LimitedFileSystem(FileSystem& files, std::size_t limit)
      : ForwardingFileSystem(files), open_(std::make_shared<OpenFiles>(files, limit)) {}

  std::unique_ptr<RandomAccessFile> open(const std::filesystem::path& path) override {
    return std::make_unique<LimitedFile>(open_, path);
  }

 private:
  std::shared_ptr<OpenFiles> open_;
};

}  // namespace

std::unique_ptr<FileSystem> limit_open_files(FileSystem& files, std::size_t limit) {
  return std::make_unique<LimitedFileSystem>(files, limit);
}

}  // namespace kvtool
