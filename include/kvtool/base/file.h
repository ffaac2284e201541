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

// Append-only. Not thread-safe: one writer at a time. No buffer of its own: what
// append() took is the operating system's, whatever becomes of the process.
// The file is locked against other writers until destruction, which is later than
// close(): it can be renamed before anyone else may write to it. Destruction
// closes the descriptor without syncing and never throws.
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

// Keeps others out of a folder for as long as it lives, at most as long as the process.
class FolderLock {
 public:
  virtual ~FolderLock() = default;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Fails when the file exists already.
  virtual std::unique_ptr<WritableFile> create(const std::filesystem::path& path) = 0;
  // As create, but a file that a writer left behind is emptied and used. Error
  // kEnvironment, which names the process, when its writer is alive. The default,
  // for file systems of one process, removes and creates.
  virtual std::unique_ptr<WritableFile> take_over(const std::filesystem::path& path);
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
  // Makes the folder itself durable, which is an entry of its parent, and so on
  // up to the root or to the first parent that may not be read.
  virtual void sync_parents(const std::filesystem::path& folder);
  // Error kEnvironment, which names the process, when another one holds the lock of
  // this folder. Null where the file system has no locks, as by default. Leaves no file.
  virtual std::unique_ptr<FolderLock> lock_folder(const std::filesystem::path& folder);
};

// The operating system's files. Lives for the whole process.
FileSystem& posix_file_system();

// Whole small text file; Error kUsage when it is missing or larger than max_bytes.
std::string read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes);

// Paths of the entries of a folder, sorted. Error kCorrupt when it cannot be read.
std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder);

// Where an output that is named `path` goes: behind symbolic links.
struct OutputTarget {
  std::filesystem::path path;
  // A regular file that nobody holds open under this name, or nothing yet. Pipes, devices and
  // /dev/stdout are written into.
  bool can_be_replaced = true;
};
// Error kUsage for a path that cannot be: too long, or links in a circle.
[[nodiscard]] OutputTarget find_output_target(const std::filesystem::path& path);

// A pipe, a device or an open file of a process: behind what it holds.
[[nodiscard]] std::unique_ptr<WritableFile> open_to_write_into(const std::filesystem::path& path);

// Into what `path` leads to. A regular file is written under a temporary name beside it and
// renamed, so that no reader ever sees half of it; anything else is written into and stays
// what it is.
void write_output_file(const std::filesystem::path& path, std::string_view content);

// For messages: a path of hundreds of bytes without its middle.
[[nodiscard]] std::string shortened_path(const std::filesystem::path& path);

}  // namespace kvtool
