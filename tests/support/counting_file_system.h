// The operating system's files, with a count of what was opened and of how often each byte
// was read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "kvtool/base/forwarding_files.h"

namespace kvtool {

class CountingFileSystem final : public ForwardingFileSystem {
 public:
  CountingFileSystem() : ForwardingFileSystem(posix_file_system()) {}

  [[nodiscard]] std::uint64_t opens(const std::filesystem::path& path) const {
    const std::lock_guard lock(mutex_);
    const auto found = counts_.find(path);
    return found == counts_.end() ? 0 : found->second.opens;
  }
  // Paths that were opened, and how often.
  [[nodiscard]] std::map<std::filesystem::path, std::uint64_t> opens() const {
    const std::lock_guard lock(mutex_);
    std::map<std::filesystem::path, std::uint64_t> result;
    for (const auto& [path, counts] : counts_) result[path] = counts.opens;
    return result;
  }
  // How often each byte of [offset, offset + count) was read: the fewest and the most.
  [[nodiscard]] std::pair<std::uint32_t, std::uint32_t> reads(const std::filesystem::path& path,
                                                              std::uint64_t offset,
                                                              std::uint64_t count) const {
    const std::lock_guard lock(mutex_);
    const std::vector<std::uint32_t>& bytes = counts_.at(path).bytes;
    const auto first = bytes.begin() + static_cast<std::ptrdiff_t>(offset);
    const auto [fewest, most] =
        std::minmax_element(first, first + static_cast<std::ptrdiff_t>(count));
    return {*fewest, *most};
  }
  [[nodiscard]] std::size_t open_files() const {
    const std::lock_guard lock(mutex_);
    return open_files_;
  }
  void forget_reads() {
    const std::lock_guard lock(mutex_);
    for (auto& [path, counts] : counts_) std::fill(counts.bytes.begin(), counts.bytes.end(), 0U);
  }
  void forget() {
    const std::lock_guard lock(mutex_);
    counts_.clear();
  }

  std::unique_ptr<RandomAccessFile> open(const std::filesystem::path& path) override {
    auto file = std::make_unique<File>(*this, files_.open(path));
    const std::lock_guard lock(mutex_);
    ++counts_[path].opens;
    counts_[path].bytes.resize(std::max<std::size_t>(counts_[path].bytes.size(), file->size()));
    return file;
  }

 private:
  class File final : public RandomAccessFile {
   public:
    File(CountingFileSystem& owner, std::unique_ptr<RandomAccessFile> file)
        : owner_(owner), file_(std::move(file)) {
      const std::lock_guard lock(owner_.mutex_);
      ++owner_.open_files_;
    }
    ~File() override {
      const std::lock_guard lock(owner_.mutex_);
      --owner_.open_files_;
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    [[nodiscard]] std::uint64_t size() const override { return file_->size(); }
    [[nodiscard]] const std::filesystem::path& path() const override { return file_->path(); }
    [[nodiscard]] std::size_t read(std::uint64_t offset,
                                   std::span<std::byte> target) const override {
      const std::size_t count = file_->read(offset, target);
      const std::lock_guard lock(owner_.mutex_);
      std::vector<std::uint32_t>& bytes = owner_.counts_[path()].bytes;
      bytes.resize(std::max<std::size_t>(bytes.size(), offset + count));
      for (std::size_t i = 0; i < count; ++i) ++bytes[offset + i];
      return count;
    }

   private:
    CountingFileSystem& owner_;
    std::unique_ptr<RandomAccessFile> file_;
  };

  struct Counts {
    std::uint64_t opens = 0;
    std::vector<std::uint32_t> bytes;  // times that each was read
  };

  mutable std::mutex mutex_;
  std::map<std::filesystem::path, Counts> counts_;
  std::size_t open_files_ = 0;
};

}  // namespace kvtool
