// Files behind small interfaces, so that tests can inject faults at every call
// and the format room never touches a descriptor. Errors are kvtool::Error
// (kEnvironment for I/O and disk space, kCorrupt for files that cannot be read)
// and name the path and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kvtool {

// Append-only. Not thread-safe: one writer at a time. Destruction closes the
// descriptor without syncing and never throws.
class WritableFile {
 public:
  virtual ~WritableFile() = default;

  // All bytes or an Error; a short write is continued, EINTR retried.
  virtual void append(std::span<const std::byte> data) = 0;
  // Durable on the medium (fdatasync).
  virtual void sync() = 0;
  // Reports errors that only close() can see; the file accepts nothing after it.
  virtual void close() = 0;
};

// Positioned reads without shared state: safe from several threads.
class RandomAccessFile {
 public:
  virtual ~RandomAccessFile() = default;

  [[nodiscard]] virtual std::uint64_t size() const = 0;
  // Reads up to target.size() bytes and returns how many there were before the
  // end of the file; fewer than asked means that the file ends there.
  [[nodiscard]] virtual std::size_t read(std::uint64_t offset,
                                         std::span<std::byte> target) const = 0;
  [[nodiscard]] virtual const std::filesystem::path& path() const = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Fails when the file exists already.
  virtual std::unique_ptr<WritableFile> create(const std::filesystem::path& path) = 0;
  virtual std::unique_ptr<RandomAccessFile> open(const std::filesystem::path& path) = 0;
  // Atomic replacement of `to`.
  virtual void rename(const std::filesystem::path& from, const std::filesystem::path& to) = 0;
  // A file that does not exist is not an error.
  virtual void remove(const std::filesystem::path& path) = 0;
  // With all parents; existing ones are fine. A file system without folders
  // keeps the default, which does nothing.
  virtual void create_directories(const std::filesystem::path& path);
  // Makes creations and renames inside the folder durable (fsync).
  virtual void sync_directory(const std::filesystem::path& path);
};

// The operating system's files. Lives for the whole process.
FileSystem& posix_file_system();

// Whole small text file; Error kUsage when it is missing or larger than max_bytes.
std::string read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes);

// Paths of the entries of a folder, sorted. Error kCorrupt when it cannot be read.
std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder);

// Writes to a temporary name beside `path` and renames, so that no reader ever
// sees half a file.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

}  // namespace kvtool
