#include "kvtool/base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"

namespace kvtool {
namespace {

// Linux transfers at most 0x7ffff000 bytes per call; asking for less keeps the
// result inside ssize_t everywhere.
constexpr std::size_t kMaxTransfer = std::size_t{1} << 30;

std::string reason(int error) { return std::generic_category().message(error); }

std::string megabytes(std::uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f MB", static_cast<double>(bytes) / 1e6);
  return text;
}

std::string write_failure(const std::filesystem::path& path, int error, std::uint64_t written) {
  const std::string where = path.string() + ": ";
  const std::string after = " after " + megabytes(written);
  switch (error) {
    case ENOSPC:
      return where + "disk full" + after + ": free space or choose another " + setting("out");
    case EDQUOT:
      return where + "disk quota exceeded" + after + ": free space or choose another " +
             setting("out");
    case EFBIG:
      return where + "file size limit reached" + after +
             ": raise the limit (ulimit -f) or choose another " + setting("out");
    default: return where + "cannot be written" + after + ": " + reason(error);
  }
}

// Closes at the end of its scope.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(Descriptor&& other) noexcept : value_(other.release()) {}
  Descriptor& operator=(Descriptor&&) = delete;

  [[nodiscard]] int get() const { return value_; }
  int release() { return std::exchange(value_, -1); }

 private:
  int value_;
};

// " (pid 4711)" of the process that holds the lock of an open file or folder, where
// the system tells: it names the lock by device and inode.
std::string lock_holder(int descriptor) {
  struct stat status{};
  if (::fstat(descriptor, &status) != 0) return {};
  char wanted[64];
  std::snprintf(wanted, sizeof wanted, "%02x:%02x:%llu", major(status.st_dev), minor(status.st_dev),
                static_cast<unsigned long long>(status.st_ino));
  std::ifstream locks("/proc/locks");
  for (std::string line; std::getline(locks, line);) {
    std::istringstream words(line);
    std::string number, kind, advisory, access, pid, inode;
    words >> number >> kind >> advisory >> access >> pid >> inode;
    // A process of another container has the number 0 or -1 here.
    if (kind == "FLOCK" && inode == wanted && pid != "0" && pid != "-1")
      return " (pid " + pid + ")";
  }
  return {};
}

enum class LockResult { kLocked, kNotSupported };

// The lock belongs to the open file: it ends with the last descriptor of it,
// that is with the process. `what` completes "another kvtool is ...".
LockResult lock(int descriptor, const std::filesystem::path& path, const std::string& what) {
  while (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    switch (errno) {
      case EINTR: continue;
      case EWOULDBLOCK:
        throw_environment(path.string() + ": another kvtool" + lock_holder(descriptor) + " is " +
                          what + ": wait for it, or choose another " + setting("out"));
      // Network file systems: no lock daemon, or no lock without write access.
      case ENOLCK:
      case EOPNOTSUPP:
      case ENOSYS:
      case EINVAL:
      case EBADF: return LockResult::kNotSupported;
      default: throw_environment(path.string() + ": cannot be locked: " + reason(errno));
    }
  }
  return LockResult::kLocked;
}

class PosixFolderLock final : public FolderLock {
 public:
  explicit PosixFolderLock(Descriptor descriptor) : descriptor_(std::move(descriptor)) {}

 private:
  Descriptor descriptor_;
};

class PosixWritableFile final : public WritableFile {
 public:
  // The second descriptor shares the first one's lock and outlives close().
  PosixWritableFile(Descriptor descriptor, std::filesystem::path path)
      : descriptor_(descriptor.release()),
        lock_(::fcntl(descriptor_, F_DUPFD_CLOEXEC, 0)),
        path_(std::move(path)) {}
  ~PosixWritableFile() override {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  PosixWritableFile(const PosixWritableFile&) = delete;
  PosixWritableFile& operator=(const PosixWritableFile&) = delete;

  void append(std::span<const std::byte> data) override {
    require_open();
    while (!data.empty()) {
      const ssize_t count = ::write(descriptor_, data.data(), std::min(data.size(), kMaxTransfer));
      if (count < 0) {
        if (errno == EINTR) continue;
        throw_environment(write_failure(path_, errno, written_));
      }
      // A regular file that takes nothing and reports nothing would loop forever.
      if (count == 0) throw_environment(write_failure(path_, ENOSPC, written_));
      written_ += static_cast<std::uint64_t>(count);
      data = data.subspan(static_cast<std::size_t>(count));
    }
  }

  void sync() override {
    require_open();
    while (::fdatasync(descriptor_) != 0) {
      if (errno != EINTR) throw_environment(write_failure(path_, errno, written_));
    }
  }

  void close() override {
    require_open();
    // After EINTR the descriptor is gone on Linux: retrying could close
    // another thread's file.
    const int result = ::close(std::exchange(descriptor_, -1));
    if (result != 0 && errno != EINTR) {
      throw_environment(write_failure(path_, errno, written_));
    }
  }

 private:
  void require_open() const {
    if (descriptor_ < 0) throw_misuse(path_.string() + ": the file is closed already");
  }

  int descriptor_;
  Descriptor lock_;
  std::filesystem::path path_;
  std::uint64_t written_ = 0;
};

class PosixRandomAccessFile final : public RandomAccessFile {
 public:
  PosixRandomAccessFile(int descriptor, std::uint64_t size, std::filesystem::path path)
      : descriptor_(descriptor), size_(size), path_(std::move(path)) {}
  ~PosixRandomAccessFile() override { ::close(descriptor_); }
  PosixRandomAccessFile(const PosixRandomAccessFile&) = delete;
  PosixRandomAccessFile& operator=(const PosixRandomAccessFile&) = delete;

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] const std::filesystem::path& path() const override { return path_; }

  [[nodiscard]] std::size_t read(std::uint64_t offset, std::span<std::byte> target) const override {
    std::size_t done = 0;
    while (done < target.size()) {
      const ssize_t count =
          ::pread(descriptor_, target.data() + done, std::min(target.size() - done, kMaxTransfer),
                  static_cast<off_t>(offset + done));
      if (count < 0) {
        if (errno == EINTR) continue;
        throw_corrupt(path_.string() + ": cannot be read at byte " + std::to_string(offset + done) +
                      ": " + reason(errno));
      }
      if (count == 0) break;
      done += static_cast<std::size_t>(count);
    }
    return done;
  }

 private:
  int descriptor_;
  std::uint64_t size_;
  std::filesystem::path path_;
};

[[noreturn]] void throw_open_failure(const std::filesystem::path& path, int error) {
  const std::string message = shortened_path(path) + ": cannot be opened: " + reason(error);
  if (error == EMFILE || error == ENFILE || error == ENOMEM) throw_environment(message);
  throw_corrupt(message);
}

constexpr const char* kWritingIt = "writing it";

Descriptor open_for_append(const std::filesystem::path& path, int flags) {
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | flags, 0666);
  } while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) {
    throw_environment(shortened_path(path) + ": cannot be created: " + reason(errno));
  }
  return Descriptor(descriptor);
}

// The path still leads to the file that is open.
bool is_same_file(int descriptor, const std::filesystem::path& path) {
  struct stat opened{};
  struct stat named{};
  return ::fstat(descriptor, &opened) == 0 && ::lstat(path.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

class PosixFileSystem final : public FileSystem {
 public:
  std::unique_ptr<WritableFile> create(const std::filesystem::path& path) override {
    Descriptor descriptor = open_for_append(path, O_EXCL);
    lock(descriptor.get(), path, kWritingIt);
    return std::make_unique<PosixWritableFile>(std::move(descriptor), path);
  }

  std::unique_ptr<WritableFile> take_over(const std::filesystem::path& path) override {
    for (;;) {
      // No symbolic link is followed and no pipe is waited for.
      Descriptor descriptor = open_for_append(path, O_NOFOLLOW | O_NONBLOCK);
      lock(descriptor.get(), path, kWritingIt);
      // Its writer may have renamed it between the two calls: then it is finished.
      if (!is_same_file(descriptor.get(), path)) continue;
      if (::ftruncate(descriptor.get(), 0) != 0) {
        throw_environment(path.string() + ": cannot be emptied: " + reason(errno));
      }
      return std::make_unique<PosixWritableFile>(std::move(descriptor), path);
    }
  }

  std::unique_ptr<RandomAccessFile> open(const std::filesystem::path& path) override {
    int descriptor = -1;
    do {
      // O_NONBLOCK: opening a named pipe must fail below instead of waiting.
      descriptor = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    } while (descriptor < 0 && errno == EINTR);
    if (descriptor < 0) throw_open_failure(path, errno);
    struct stat status{};
    if (::fstat(descriptor, &status) != 0) {
      const int error = errno;
      ::close(descriptor);
      throw_open_failure(path, error);
    }
    if (!S_ISREG(status.st_mode)) {
      ::close(descriptor);
      throw_corrupt(path.string() + (S_ISDIR(status.st_mode) ? ": is a directory, not a file"
                                                             : ": is not a regular file"));
    }
    return std::make_unique<PosixRandomAccessFile>(
        descriptor, static_cast<std::uint64_t>(status.st_size), path);
  }

  void rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) {
      throw_environment(from.string() + ": cannot be renamed to " + to.string() + ": " +
                        reason(errno));
    }
  }

  void remove(const std::filesystem::path& path) override {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
      throw_environment(path.string() + ": cannot be removed: " + reason(errno));
    }
  }

  void create_directories(const std::filesystem::path& path) override {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) {
      throw_environment(shortened_path(path) + ": folder cannot be created: " + error.message());
    }
  }

  void sync_directory(const std::filesystem::path& path) override {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) {
      throw_environment(path.string() + ": folder cannot be opened: " + reason(errno));
    }
    const int result = ::fsync(descriptor);
    const int error = errno;
    ::close(descriptor);
    // Some network file systems have no fsync for folders; they answer EINVAL.
    if (result != 0 && error != EINVAL) {
      throw_environment(path.string() + ": folder cannot be synced: " + reason(error));
    }
  }

  void sync_parents(const std::filesystem::path& folder) override {
    for (std::filesystem::path each = folder; each.has_relative_path(); each = each.parent_path()) {
      const std::filesystem::path parent = each.has_parent_path() ? each.parent_path() : ".";
      if (::access(parent.c_str(), R_OK) != 0) return;
      sync_directory(parent);
    }
  }

  std::unique_ptr<FolderLock> lock_folder(const std::filesystem::path& folder) override {
    Descriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (descriptor.get() < 0) {
      throw_environment(folder.string() + ": folder cannot be opened: " + reason(errno));
    }
    if (lock(descriptor.get(), folder, "writing to this folder") == LockResult::kNotSupported) {
      return nullptr;
    }
    return std::make_unique<PosixFolderLock>(std::move(descriptor));
  }
};

// A name of its own, which is never too long where that of `path` is not.
std::filesystem::path temporary_beside(const std::filesystem::path& path) {
  constexpr std::size_t kKept = 200;
  const std::string name = path.filename().string().substr(0, kKept);
  return path.parent_path() / (name + ".tmp." + std::to_string(::getpid()));
}

}  // namespace

std::string shortened_path(const std::filesystem::path& path) {
  constexpr std::size_t kShown = 60;
  const std::string text = path.string();
  if (text.size() <= 3 * kShown) return text;
  return text.substr(0, kShown) + "..." + text.substr(text.size() - kShown) + " (" +
         std::to_string(text.size()) + " bytes)";
}

void FileSystem::create_directories(const std::filesystem::path& /*path*/) {}
void FileSystem::sync_directory(const std::filesystem::path& /*path*/) {}
void FileSystem::sync_parents(const std::filesystem::path& /*folder*/) {}

std::unique_ptr<WritableFile> FileSystem::take_over(const std::filesystem::path& path) {
  remove(path);
  return create(path);
}

std::unique_ptr<FolderLock> FileSystem::lock_folder(const std::filesystem::path& /*folder*/) {
  return nullptr;
}

FileSystem& posix_file_system() {
  static PosixFileSystem file_system;
  return file_system;
}

std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::vector<std::filesystem::path> paths;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    paths.push_back(entry->path());
  }
  if (error) throw_corrupt(folder.string() + ": cannot be listed: " + error.message());
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::string read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const auto too_large = [&] {
    throw_usage(path.string() + ": larger than the " + std::to_string(max_bytes) +
                " bytes allowed here");
  };
  std::unique_ptr<RandomAccessFile> file;
  try {
    file = posix_file_system().open(path);
  } catch (const Error& error) {
    throw_usage(error.what());
  }
  if (file->size() > max_bytes) too_large();
  // One byte more than stat said: files in /proc claim to be empty, and a file
  // that grows meanwhile must not slip past the limit.
  std::string content;
  std::uint64_t wanted = file->size() + 1;
  for (;;) {
    const std::size_t before = content.size();
    content.resize(before + wanted);
    const std::size_t count =
        file->read(before, std::as_writable_bytes(std::span(content)).subspan(before));
    content.resize(before + count);
    if (content.size() > max_bytes) too_large();
    if (count < wanted) return content;
    wanted = std::min<std::uint64_t>(content.size() + 4096, max_bytes + 1 - content.size());
  }
}

OutputTarget find_output_target(const std::filesystem::path& path) {
  constexpr int kMaxLinks = 40;  // as Linux
  OutputTarget target{.path = path, .can_be_replaced = true};
  struct stat status{};
  for (int links = 0;; ++links) {
    // What a process holds open, /dev/stdout among it, is that very file, whatever its name.
    if (target.path.native().starts_with("/proc/")) target.can_be_replaced = false;
    if (::lstat(target.path.c_str(), &status) != 0) {
      if (errno == ENOENT) return target;
      throw_usage(shortened_path(path) + ": " + reason(errno));
    }
    if (!S_ISLNK(status.st_mode) || !target.can_be_replaced) break;
    if (links == kMaxLinks) throw_usage(shortened_path(path) + ": " + reason(ELOOP));
    std::error_code error;
    const std::filesystem::path next = std::filesystem::read_symlink(target.path, error);
    if (error) throw_usage(shortened_path(path) + ": " + error.message());
    target.path = next.is_absolute() ? next : target.path.parent_path() / next;
  }
  target.can_be_replaced = target.can_be_replaced && S_ISREG(status.st_mode);
  return target;
}

std::unique_ptr<WritableFile> open_to_write_into(const std::filesystem::path& path) {
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), O_WRONLY | O_APPEND | O_NOCTTY | O_CLOEXEC);
  } while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) {
    throw_environment(path.string() + ": cannot be opened to write: " + reason(errno));
  }
  return std::make_unique<PosixWritableFile>(Descriptor(descriptor), path);
}

void write_output_file(const std::filesystem::path& path, std::string_view content) {
  const OutputTarget target = find_output_target(path);
  const auto bytes = std::as_bytes(std::span(content));
  FileSystem& files = posix_file_system();
  if (!target.can_be_replaced) {
    const std::unique_ptr<WritableFile> file = open_to_write_into(target.path);
    file->append(bytes);
    return file->close();
  }
  const std::filesystem::path temporary = temporary_beside(target.path);
  files.remove(temporary);
  try {
    const std::unique_ptr<WritableFile> file = files.create(temporary);
    file->append(bytes);
    file->close();
    files.rename(temporary, target.path);
  } catch (const Error&) {
    ::unlink(temporary.c_str());
    throw;
  }
}

}  // namespace kvtool
