// Memory that parts of a file are read into.
#pragma once

#include <cstddef>
#include <memory>

namespace kvtool::format {

// Not filled with zeros, since most of what is read is shorter.
class ReadBlock {
 public:
  explicit ReadBlock(std::size_t size)
      : bytes_(std::make_unique_for_overwrite<std::byte[]>(size)), size_(size) {}

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::byte* data() { return bytes_.get(); }
  [[nodiscard]] std::byte* begin() { return bytes_.get(); }
  [[nodiscard]] std::byte* end() { return bytes_.get() + size_; }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t size_;
};

}  // namespace kvtool::format
