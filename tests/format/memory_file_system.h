// Files in memory, with a fault at any call and counts of what was done.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"

namespace kvtool::format {

using Bytes = std::vector<std::byte>;

class MemoryFileSystem final : public FileSystem {
 public:
  // The calls from here on, counted from 0, of which one fails; -1 for none.
  // A failing append keeps half of its bytes, as a full disk does.
  void fail_call(int call) {
    fail_at_ = call;
    calls_ = 0;
  }
  [[nodiscard]] int calls() const { return calls_; }
  [[nodiscard]] const std::vector<std::string>& log() const { return log_; }
  [[nodiscard]] std::uint64_t bytes_read() const {
    const std::lock_guard lock(mutex_);
    return bytes_read_;
  }

  // The most bytes that one call asked for.
  [[nodiscard]] std::uint64_t largest_read() const {
    const std::lock_guard lock(mutex_);
    return largest_read_;
  }

  [[nodiscard]] bool exists(const std::filesystem::path& path) const {
    return files_.count(path) != 0;
  }
  [[nodiscard]] std::vector<std::filesystem::path> names() const {
    std::vector<std::filesystem::path> names;
    for (const auto& [name, unused] : files_) names.push_back(name);
    return names;
  }
  [[nodiscard]] Bytes& bytes(const std::filesystem::path& path) { return *files_.at(path); }
  void put(const std::filesystem::path& path, Bytes content) {
    files_[path] = std::make_shared<Bytes>(std::move(content));
  }

  std::unique_ptr<WritableFile> create(const std::filesystem::path& path) override {
    if (fails("create")) throw_environment(path.string() + ": injected");
    if (exists(path)) throw_environment(path.string() + ": exists");
    put(path, {});
    return std::make_unique<Writable>(*this, files_[path]);
  }

  std::unique_ptr<RandomAccessFile> open(const std::filesystem::path& path) override {
    if (fails("open")) throw_corrupt(path.string() + ": injected");
    if (!exists(path)) throw_corrupt(path.string() + ": missing");
    return std::make_unique<Readable>(*this, path, files_[path]);
  }

  void rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    if (fails("rename")) throw_environment(from.string() + ": injected");
    files_[to] = files_.at(from);
    files_.erase(from);
  }

  void remove(const std::filesystem::path& path) override {
    if (fails("remove")) throw_environment(path.string() + ": injected");
    files_.erase(path);
  }

  void create_directories(const std::filesystem::path& path) override {
    if (fails("create_directories " + path.string())) throw_environment("injected");
  }

  void sync_directory(const std::filesystem::path& path) override {
    if (fails("sync_directory " + path.string())) throw_environment("injected");
  }

  void sync_parents(const std::filesystem::path& folder) override {
    if (fails("sync_parents " + folder.string())) throw_environment("injected");
  }

 private:
  class Writable final : public WritableFile {
   public:
    Writable(MemoryFileSystem& owner, std::shared_ptr<Bytes> file)
        : owner_(owner), file_(std::move(file)) {}
    void append(std::span<const std::byte> data) override {
      const bool failing = owner_.fails("append");
      if (failing) data = data.subspan(0, data.size() / 2);
      file_->insert(file_->end(), data.begin(), data.end());
      if (failing) throw_environment("disk full (injected)");
    }
    void sync() override {
      if (owner_.fails("sync")) throw_environment("injected");
    }
    void close() override {
      if (owner_.fails("close")) throw_environment("injected");
    }

   private:
    MemoryFileSystem& owner_;
    std::shared_ptr<Bytes> file_;
  };

  class Readable final : public RandomAccessFile {
   public:
    Readable(MemoryFileSystem& owner, std::filesystem::path path, std::shared_ptr<Bytes> file)
        : owner_(owner), path_(std::move(path)), file_(std::move(file)), size_(file_->size()) {}
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] std::size_t read(std::uint64_t offset,
                                   std::span<std::byte> target) const override {
      {
        const std::lock_guard lock(owner_.mutex_);
        owner_.largest_read_ = std::max<std::uint64_t>(owner_.largest_read_, target.size());
      }
      if (offset >= file_->size()) return 0;
      const std::size_t count = std::min<std::uint64_t>(target.size(), file_->size() - offset);
      std::copy_n(file_->begin() + static_cast<std::ptrdiff_t>(offset), count, target.begin());
      const std::lock_guard lock(owner_.mutex_);
      owner_.bytes_read_ += count;
      return count;
    }
    [[nodiscard]] const std::filesystem::path& path() const override { return path_; }

   private:
    MemoryFileSystem& owner_;
    std::filesystem::path path_;
    std::shared_ptr<Bytes> file_;
    std::uint64_t size_;
  };

  bool fails(const std::string& call) {
    log_.push_back(call);
    return calls_++ == fail_at_;
  }

  std::map<std::filesystem::path, std::shared_ptr<Bytes>> files_;
  std::vector<std::string> log_;
  int calls_ = 0;
  int fail_at_ = -1;
  mutable std::mutex mutex_;
  std::uint64_t bytes_read_ = 0;
  std::uint64_t largest_read_ = 0;
};

}  // namespace kvtool::format
